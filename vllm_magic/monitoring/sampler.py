"""Sees each second what this kernel's servers hold and do, for their curves and for whoever watches.

Who is looked at, and by whom that is watched, is kept here; `rounds` looks. Its threads begin with the first server, or
with the first who watches, and end `LINGER` seconds after the last server is over while nobody watches.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.monitoring.poller import Memory, Rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.server.server import Server

FRESH = 1.5  # seconds for which a sight of the GPUs is as good as a new one, if no server has changed since
LINGER = 10.0  # seconds for which a server that is over is looked at: its VRAM is seen to come back


class Sampler:
    """One for each manager. Safe to use from any thread; its lock is held for moments only, and no other one below it.

    Args:
        probe: looks at the GPUs.

    Attributes:
        latest: the GPUs as they were seen last, at most `rounds.STALE` seconds before; None before the first look.
        attribution: each process that the driver lists and that belongs to a followed server: its pid, and the server's name.
    """

    def __init__(self, probe: Probe) -> None:
        self.latest: Snapshot | None = None
        self.attribution: Mapping[int, str] = {}
        self._probe = probe
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards all below
        self._followed: dict[Server, Memory] = {}
        self._watchers: dict[object, Callable[[], None]] = {}
        self._rounds: Rounds | None = None
        self._changed = 0.0  # when a server came to another state, by `time.monotonic`

    @property
    def fresh(self) -> Snapshot | None:
        """The GPUs as they were seen in this moment, more or less, and in these states of all servers; else None."""
        seen, least = self.latest, max(self._changed, time.monotonic() - FRESH)
        return seen if seen and seen.gpus and seen.taken > least else None

    def follow(self, server: Server) -> None:
        """Look at this server until it is over, and some seconds more."""
        with self._lock:
            self._followed.setdefault(server, Memory())
            self._begin()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, in whatever thread, after each look and each change in a server's life.

        Returns:
            What ends that. Until then the looks go on, also without servers.
        """
        token = object()
        with self._lock:
            self._watchers[token] = callback
            self._begin()

        def end() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return end

    def heard(self, server: Server) -> None:
        """Something changed in this server's life: a look at one that is not ready any more is broken off."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            rounds, memory, state = self._rounds, self._followed.get(server), server.state
            changed = memory is not None and memory.state is not state
            if changed:
                self._changed = time.monotonic()
            if memory is not None:
                memory.state = state
                self._begin()  # if there was no thread to be had so far
        if rounds and changed:
            rounds.stir(server)
        self.tell()

    def tell(self) -> None:
        """Call those who watch."""
        with self._lock:
            watchers = list(self._watchers.values())
        for callback in watchers:
            with contextlib.suppress(Exception):  # a fault of theirs is none of ours
                callback()

    def _publish(self, latest: Snapshot | None, attribution: Mapping[int, str]) -> None:
        """Keep what the rounds have seen, and call those who watch."""
        if latest is not None:
            self.latest, self.attribution = latest, attribution
        self.tell()

    def close(self) -> None:
        """End the threads, and a look at the GPUs that is under way; they come back for the next server, or who watches."""
        if os.getpid() != self._pid:  # a forked copy has no thread
            return
        with self._lock:
            rounds, self._rounds = self._rounds, None
            self._followed.clear()
        if rounds:
            rounds.end()
            self._probe.close()
            rounds.join()

    def _targets(self, rounds: Rounds) -> dict[Server, Memory] | None:
        """Return the servers that ``rounds`` look at now; None once they are to end."""
        now = time.monotonic()
        with self._lock:
            for server, memory in list(self._followed.items()):
                if not server.state.over:
                    memory.over_since = None  # its end can be tried again
                elif memory.over_since is None:
                    memory.over_since = now
                elif now - memory.over_since > LINGER:
                    del self._followed[server]
            if self._rounds is not rounds:
                return None
            if not self._followed and not self._watchers:
                self._rounds = None
                return None
            return dict(self._followed)

    def _begin(self) -> None:
        """See that there is a thread; the lock is held."""
        if self._rounds is None or not self._rounds.is_alive():
            rounds: Rounds = Rounds(self._probe, lambda: self._targets(rounds), self._publish)
            with contextlib.suppress(
                RuntimeError
            ):  # no thread to be had: nothing is seen, and all else works
                rounds.start()
                self._rounds = rounds
