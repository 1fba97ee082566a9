"""Samples each second what this kernel's servers hold and do, for their curves and for watchers.

The sampler knows the targets and the watchers; the `poller` does the polling. Its threads start with the first server or
the first watcher. They end `LINGER` seconds after the last server is over, if nobody watches.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.monitoring.poller import Poller, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.server.run import ServerRun

FRESH = (
    1.5  # seconds for which a snapshot of the GPUs is as good as a new one, if no server has changed since
)
LINGER = 10.0  # seconds for which a server that is over is still polled, so that its curve shows its VRAM come back
PATIENCE = 1.0  # seconds for which the thread of a server waits for the lock


class Sampler:
    """The sampler of one manager. Safe to use from any thread; it holds its lock for moments only, and takes no other then.

    Args:
        probe: reads the GPUs.

    Attributes:
        latest: the GPUs as they were seen last, at most `poller.STALE` seconds before; None before the first look.
        attribution: each process that the driver lists and that belongs to a followed server: its pid, and the server's name.
    """

    def __init__(self, probe: Probe) -> None:
        self.latest: Snapshot | None = None
        self.attribution: Mapping[int, str] = {}
        self._probe = probe
        self._pid = os.getpid()
        self._lock = (
            threading.RLock()
        )  # guards all below; a signal handler of the program may interrupt its holder
        self._followed: dict[ServerRun, Target] = {}
        self._watchers: dict[object, Callable[[], None]] = {}
        self._poller: Poller | None = None
        self._changed = 0.0  # when a server came to another state, by `time.monotonic`

    @property
    def fresh(self) -> Snapshot | None:
        """The last snapshot of the GPUs, if it is at most `FRESH` seconds old and no server has changed since; else None."""
        seen, least = self.latest, max(self._changed, time.monotonic() - FRESH)
        return seen if seen and seen.gpus and seen.taken > least else None

    def follow(self, server: ServerRun) -> None:
        """Poll this server until `LINGER` seconds after its end."""
        with self._lock:
            self._followed.setdefault(server, Target())
            self._begin()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, in any thread, after each sample and after each change in the life of a server.

        Returns:
            A function that ends this. Until it is called the polling goes on, also without servers.
        """
        token = object()
        with self._lock:
            self._watchers[token] = callback
            self._begin()

        def end() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return end

    def note_change(self, server: ServerRun) -> None:
        """Note that something has changed in the life of a server, and tell the watchers."""
        if os.getpid() != self._pid:
            return
        # The holder may be a thread that waits in a signal handler for the end of this very server.
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            poller, target, state = self._poller, self._followed.get(server), server.state
            changed = target is not None and target.state is not state
            if changed:
                self._changed = time.monotonic()
            if target is not None:
                target.state = state
                self._begin()  # if there was no thread to be had so far
        finally:
            self._lock.release()
        if poller and changed:
            poller.stir(server)
        self.notify()

    def notify(self) -> None:
        """Call the watchers."""
        for callback in list(self._watchers.values()):
            with contextlib.suppress(Exception):  # a fault of a watcher does not end the sampling
                callback()

    def _publish(self, latest: Snapshot | None, attribution: Mapping[int, str]) -> None:
        """Keep what the poller has seen, and call the watchers."""
        if latest is not None:
            self.latest, self.attribution = latest, attribution
        self.notify()

    def close(self) -> None:
        """End the threads and a running look at the GPUs. They start again with the next server or watcher."""
        if os.getpid() != self._pid:  # a forked copy has no thread
            return
        with self._lock:
            poller, self._poller = self._poller, None
            self._followed.clear()
        if poller:
            poller.end()
            self._probe.close()
            poller.join()

    def _targets(self, poller: Poller) -> dict[ServerRun, Target] | None:
        """Return the servers that ``poller`` polls now; None once it is to end."""
        now = time.monotonic()
        with self._lock:
            for server, target in list(self._followed.items()):
                if not server.state.over:
                    target.over_since = None  # its end can be tried again
                elif target.over_since is None:
                    target.over_since = now
                elif now - target.over_since > LINGER:
                    del self._followed[server]
            if self._poller is not poller:
                return None
            if not self._followed and not self._watchers:
                self._poller = None
                return None
            return dict(self._followed)

    def _begin(self) -> None:
        """Start a thread unless one runs. The caller holds the lock."""
        if self._poller is None or not self._poller.is_alive():
            poller: Poller = Poller(self._probe, lambda: self._targets(poller), self._publish)
            with contextlib.suppress(
                RuntimeError
            ):  # no thread to be had: nothing is seen, and all else works
                poller.start()
                self._poller = poller
