"""Which of some leaders a process belongs to, found out once for each process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllm_magic.linux import processes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vllm_magic.linux.processes import Identity

AGAIN = 30.0  # seconds before a process that belongs to none of them is looked at once more


class Ownership:
    """Remembers each process for as long as it is asked about, also beyond its death. For one thread."""

    def __init__(self) -> None:
        self._leaders: frozenset[Identity] = frozenset()
        self._known: dict[int, Identity] = {}
        self._strange: dict[int, float] = {}  # when to look at it again, by `time.monotonic`

    def look(self, pids: Collection[int], leaders: Iterable[Identity]) -> Mapping[int, Identity]:
        """The leader of each process that belongs to one of them."""
        if self._leaders != (new := frozenset(leaders)):
            self._leaders = new
            self._strange.clear()
        now = time.monotonic()
        self._known = {pid: leader for pid, leader in self._known.items() if pid in pids}
        self._strange = {pid: then for pid, then in self._strange.items() if pid in pids and now < then}
        by_pid = {leader.pid: leader for leader in new}
        for pid in pids:
            if pid in self._known or pid in self._strange:
                continue
            leader = processes.leader_of(pid, by_pid)
            if leader is None:
                self._strange[pid] = now + AGAIN
            else:
                self._known[pid] = leader
        return self._known
