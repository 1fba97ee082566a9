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

SHARE = 0.01  # the share of a core that the reads may use: each read is of all processes of the machine, perhaps thousands
LEADER = "SIGTERM, then SIGKILL"
CHILD = "by its parent, else SIGKILL"
DETACHED = "SIGKILL: it has left its parent"


class ProcessRows:
    """The process rows of one server, which are sent when they change. Only the controller's thread uses them."""

    def __init__(self) -> None:
        self._sent: dict[str, Any] = {}
        self._next_read = 0.0  # by `time.monotonic`
        self._usage = ProcessUsage()

    def changed(self, server: Server, snapshot: Snapshot | None) -> dict[str, Any] | None:
        """Return the message with the rows; None if they have not changed, or the last read was too recent."""
        if time.monotonic() < self._next_read:
            return None
        began = time.thread_time()
        rows = message(server, snapshot, self._usage)
        self._next_read = time.monotonic() + (time.thread_time() - began) / SHARE
        if rows == self._sent:
            return None
        self._sent = rows
        return rows


class ProcessUsage:
    """The memory, CPU time and threads of processes, as psutil reads them."""

    def __init__(self) -> None:
        self._known: dict[Identity, psutil.Process] = {}

    def of(self, identity: Identity) -> tuple[int | None, int | None, int | None]:
        """Return the resident bytes, the percent of one core since the last call, and the number of threads of a process.

        A value that is not known is None. The first call for a process knows no CPU time.
        """
        import psutil  # here, since only an open panel needs it

        try:
            process = self._known.get(identity) or psutil.Process(identity.pid)
            before = identity in self._known
            self._known[identity] = process
            with process.oneshot():
                share = round(process.cpu_percent())
                return process.memory_info().rss, share if before else None, process.num_threads()
        except psutil.Error:
            return None, None, None

    def keep(self, identities: Iterable[Identity]) -> None:
        """Forget all processes but these."""
        self._known = {identity: self._known[identity] for identity in identities if identity in self._known}


def message(server: Server, snapshot: Snapshot | None, usage: ProcessUsage) -> dict[str, Any]:
    """Return the message with a row for each process.

    A row has the depth in the tree, name, pid, bytes of memory, percent of a core, threads, bytes of VRAM (null for a value
    that is not known), and how a stop ends the process.
    """
    processes = {process.identity.pid: process for process in server.processes()}
    vram = {
        process.pid: process.used
        for gpu in (snapshot.gpus if snapshot else ())
        for process in gpu.processes or ()
    }
    rows = [
        [
            depth,
            details.short_title(process),
            process.identity.pid,
            *usage.of(process.identity),
            vram.get(process.identity.pid),
            _how_ended(process, server.pid, depth),
        ]
        for depth, process in _tree(processes)
    ]
    usage.keep(process.identity for process in processes.values())
    return {"kind": "processes", "name": server.name, "rows": rows}


def _tree(processes: Mapping[int, Process]) -> Iterator[tuple[int, Process]]:
    """Yield each process with its depth, after the process that started it."""

    def below(parent: int, depth: int) -> Iterator[tuple[int, Process]]:
        for process in processes.values():
            if process.parent == parent:
                yield depth, process
                yield from below(process.identity.pid, depth + 1)

    for process in processes.values():
        if process.parent not in processes:
            yield 0, process
            yield from below(process.identity.pid, 1)


def _how_ended(process: Process, leader: int | None, depth: int) -> str:
    if process.identity.pid == leader:
        return LEADER
    return CHILD if depth else DETACHED
