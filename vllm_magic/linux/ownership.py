"""Find the servers to which processes belong, and cache the result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllm_magic.linux import processes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vllm_magic.linux.processes import Identity

RECHECK_INTERVAL = 30.0  # seconds until a process that belongs to no server is checked again


class Ownership:
    """Finds the leader of each process once. For one thread.

    The result is kept as long as each call asks for the pid, even if the process has ended.
    """

    def __init__(self) -> None:
        self._leaders: frozenset[Identity] = frozenset()
        self._known: dict[int, Identity] = {}
        self._unowned: dict[int, float] = {}  # the time of the next check, by `time.monotonic`

    def leaders_of(self, pids: Collection[int], leaders: Iterable[Identity]) -> Mapping[int, Identity]:
        """Return the leader of each process that belongs to the session or the tree of one of these leaders.

        Args:
            pids: the pids of the processes; other pids are forgotten.
            leaders: the leaders.

        Returns:
            The leader, by pid. Processes that belong to no leader are missing.
        """
        if self._leaders != (new := frozenset(leaders)):
            self._leaders = new
            self._unowned.clear()
        now = time.monotonic()
        self._known = {pid: leader for pid, leader in self._known.items() if pid in pids}
        self._unowned = {pid: then for pid, then in self._unowned.items() if pid in pids and now < then}
        by_pid = {leader.pid: leader for leader in new}
        for pid in pids:
            if pid in self._known or pid in self._unowned:
                continue
            leader = processes.leader_of(pid, by_pid)
            if leader is None:
                self._unowned[pid] = now + RECHECK_INTERVAL
            else:
                self._known[pid] = leader
        return self._known
