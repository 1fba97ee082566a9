"""The processes of a server as the rows of a tree."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vllm_magic.linux import details

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import psutil

    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.linux.processes import Identity, Process
    from vllm_magic.server.server import Server

SHARE = 0.01  # of a core that the reads may take: each reads all processes of the machine, maybe thousands
LEADER = "SIGTERM, then SIGKILL"
CHILD = "by its parent, else SIGKILL"
STRAY = "SIGKILL: it has left its parent"


class ProcessRows:
    """The process rows of one server, sent when they change. Only the controller's thread uses them."""

    def __init__(self) -> None:
        self._sent: dict[str, Any] = {}
        self._due = 0.0
        self._usage = ProcessUsage()

    def more(self, server: Server, now: Snapshot | None) -> dict[str, Any] | None:
        """Return the message with the rows; None where they have not changed, or it is too soon for another read."""
        if time.monotonic() < self._due:
            return None
        began = time.thread_time()
        rows = message(server, now, self._usage)
        self._due = time.monotonic() + (time.thread_time() - began) / SHARE
        if rows == self._sent:
            return None
        self._sent = rows
        return rows


class ProcessUsage:
    """What processes use of the machine, as psutil reads it. The CPU time is that since the last call."""

    def __init__(self) -> None:
        self._known: dict[Identity, psutil.Process] = {}

    def of(self, one: Identity) -> tuple[int | None, int | None, int | None]:
        """Return the resident bytes, the percent of one core, and the threads of a process; None for what is not known."""
        import psutil  # here, since only an open panel needs it

        try:
            process = self._known.get(one) or psutil.Process(one.pid)
            before = one in self._known
            self._known[one] = process
            with process.oneshot():
                share = round(process.cpu_percent())
                return process.memory_info().rss, share if before else None, process.num_threads()
        except psutil.Error:
            return None, None, None

    def keep(self, there: Iterable[Identity]) -> None:
        """Forget the processes that have ended."""
        self._known = {one: self._known[one] for one in there if one in self._known}


def message(server: Server, now: Snapshot | None, usage: ProcessUsage) -> dict[str, Any]:
    """Return the message with a row for each process.

    A row has the depth, name, pid, bytes of memory, percent of a core, threads and bytes of VRAM (null for what is not known),
    and how the process is ended.
    """
    there = {one.identity.pid: one for one in server.processes()}
    held = {one.pid: one.used for gpu in (now.gpus if now else ()) for one in gpu.processes or ()}
    rows = [
        [
            depth,
            details.short_title(one),
            pid,
            *usage.of(one.identity),
            held.get(pid),
            _end(one, server.pid, depth),
        ]
        for depth, one in _tree(there)
        for pid in [one.identity.pid]
    ]
    usage.keep(one.identity for one in there.values())
    return {"kind": "processes", "name": server.name, "rows": rows}


def _tree(there: Mapping[int, Process]) -> Iterator[tuple[int, Process]]:
    """Yield the depth of each process and the process, after the process that started it."""

    def below(parent: int, depth: int) -> Iterator[tuple[int, Process]]:
        for one in there.values():
            if one.parent == parent:
                yield depth, one
                yield from below(one.identity.pid, depth + 1)

    for one in there.values():
        if one.parent not in there:
            yield 0, one
            yield from below(one.identity.pid, 1)


def _end(one: Process, leader: int | None, depth: int) -> str:
    if one.identity.pid == leader:
        return LEADER
    return CHILD if depth else STRAY
