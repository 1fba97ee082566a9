"""The sampler: each second it measures the servers of this kernel, for their curves and for watchers.

The sampler holds the servers and the watchers; the `poller` measures. Its threads start with the first server or the first
watcher. Without watchers, they end `POLLED_AFTER_END` seconds after the last server is over.
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

MAX_SNAPSHOT_AGE = 1.5  # seconds for which a snapshot of the GPUs counts as new
POLLED_AFTER_END = 10.0  # seconds for which a server that is over is still polled, so that its curve shows its VRAM come back
LOCK_LIMIT = 1.0  # seconds for which the thread of a server waits for the lock


class Sampler:
    """The sampler of one manager. Safe to use from any thread: it holds its lock only briefly, and takes no other meanwhile.

    Args:
        probe: reads the GPUs.

    Attributes:
        latest: the last snapshot of the GPUs, at most `poller.NO_GPUS_LIMIT` seconds old; None before the first snapshot.
        attribution: the name of the server of each process that the driver lists, by pid; other processes are missing.
    """

    def __init__(self, probe: Probe) -> None:
        self.latest: Snapshot | None = None
        self.attribution: Mapping[int, str] = {}
        self._probe = probe
        self._pid = os.getpid()
        # Protects all attributes below. It is reentrant: a signal handler of the program may interrupt its holder.
        self._lock = threading.RLock()
        self._targets: dict[ServerRun, Target] = {}
        self._watchers: dict[object, Callable[[], None]] = {}
        self._poller: Poller | None = None
        self._changed_at = 0.0  # the time of the last change of a server's state, by `time.monotonic`

    @property
    def fresh(self) -> Snapshot | None:
        """The last snapshot, if it lists GPUs, is at most `MAX_SNAPSHOT_AGE` seconds old, and no state has changed since; else None."""
        last, oldest = self.latest, max(self._changed_at, time.monotonic() - MAX_SNAPSHOT_AGE)
        return last if last and last.gpus and last.taken > oldest else None

    def follow(self, server: ServerRun) -> None:
        """Poll this server until `POLLED_AFTER_END` seconds after its end."""
        with self._lock:
            self._targets.setdefault(server, Target())
            self._start_poller()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, in any thread, after each sample and after each event in the life of a server.

        Returns:
            A function that ends these calls. Until then polling goes on, even without servers.
        """
        token = object()
        with self._lock:
            self._watchers[token] = callback
            self._start_poller()

        def end() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return end

    def note_change(self, server: ServerRun) -> None:
        """Note an event in the life of a server: poll the server if its state has changed, and call the watchers."""
        if os.getpid() != self._pid:
            return
        # The holder of the lock may be in a signal handler, where it waits for the end of this server.
        if not self._lock.acquire(timeout=LOCK_LIMIT):
            return
        try:
            poller, target, state = self._poller, self._targets.get(server), server.state
            changed = target is not None and target.state is not state
            if changed:
                self._changed_at = time.monotonic()
            if target is not None:
                target.state = state
                self._start_poller()  # again, if the thread could not be started before
        finally:
            self._lock.release()
        if poller and changed:
            poller.poll_soon(server)
        self._call_watchers()

    def close(self) -> None:
        """End the threads, and the probe's process. They start again with the next server or watcher."""
        if os.getpid() != self._pid:  # a forked copy has no thread
            return
        with self._lock:
            poller, self._poller = self._poller, None
            self._targets.clear()
        if poller:
            poller.end()
            self._probe.close()
            poller.join()

    def _call_watchers(self) -> None:
        for callback in list(self._watchers.values()):
            with contextlib.suppress(Exception):  # an exception of a watcher does not end the sampling
                callback()

    def _publish(self, latest: Snapshot | None, attribution: Mapping[int, str]) -> None:
        """Store the measurements of the poller, and call the watchers."""
        if latest is not None:
            self.latest, self.attribution = latest, attribution
        self._call_watchers()

    def _next_targets(self, poller: Poller) -> dict[ServerRun, Target] | None:
        """Return the servers that ``poller`` polls in its next round; None to end it."""
        now = time.monotonic()
        with self._lock:
            for server, target in list(self._targets.items()):
                if not server.state.over:
                    target.over_since = None  # a server that is over can be stopped again
                elif target.over_since is None:
                    target.over_since = now
                elif now - target.over_since > POLLED_AFTER_END:
                    del self._targets[server]
            if self._poller is not poller:
                return None
            if not self._targets and not self._watchers:
                self._poller = None
                return None
            return dict(self._targets)

    def _start_poller(self) -> None:
        """Start a thread unless one runs. The caller holds the lock."""
        if self._poller is None or not self._poller.is_alive():
            poller: Poller = Poller(self._probe, lambda: self._next_targets(poller), self._publish)
            # If no thread can be started, nothing is measured, but all else works.
            with contextlib.suppress(RuntimeError):
                poller.start()
                self._poller = poller
