"""Watching processes: whose they are, and when each of them ended."""

from __future__ import annotations

import os
import select
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_magic.linux import pidfd, processes, shared_memory

from .cells import Phase
from .inside import MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_magic.linux.processes import Identity, Process
    from vllm_magic.linux.shared_memory import Segment

    from .cells import Cell


@dataclass
class Watched:
    """One cell's server.

    Attributes:
        cell: which.
        port: where it listens.
        key: of its API.
        folder: its private folder.
        processes: seen so far, the guards too.
        segments: its shared memory, as it was just before the death.
        guards: the outer and the inner one; none with the methods that have none.
        leader: the process that was executed.
    """

    cell: Cell
    port: int
    key: str
    folder: str
    processes: set[Identity] = field(default_factory=set)
    segments: set[Segment] = field(default_factory=set)
    guards: tuple[Identity, ...] = ()
    leader: Identity | None = None

    def note(self, members: list[Process], table: Mapping[int, Process], *, guarded: bool) -> None:
        """Remember who it is."""
        pids = {one.identity.pid for one in members}
        names = ("vllm", "python") if self.cell.phase is Phase.WAITING else ("vllm",)
        leader = next(one for one in members if one.parent not in pids and one.name in names)
        self.leader = leader.identity
        if guarded:
            inner = table[leader.parent]
            self.guards = (table[inner.parent].identity, inner.identity)
        self.processes |= {one.identity for one in members} | set(self.guards)
        self.segments = shared_memory.mapped_by(pids)

    def titled(self, part: str) -> list[Identity]:
        """Those of its living processes whose title has this part."""
        return [one for one in self.processes if part in processes.title(one.pid) and processes.is_alive(one)]


def members(mark: str) -> dict[str, list[Process]]:
    """The living processes which carry ``mark-NAME`` in their environment, by name."""
    found: dict[str, list[Process]] = {}
    start = f"{MARK}={mark}-".encode()
    for pid, process in processes.table().items():
        if process.alive:
            for entry in _environment(pid).split(b"\0"):
                if entry.startswith(start):
                    found.setdefault(entry[len(start) :].decode(), []).append(process)
    return found


def _environment(pid: int) -> bytes:
    for folder in processes.folders(pid):  # of a zombie whose threads live, the threads tell
        try:
            with open(f"{folder}/environ", "rb") as file:
                text = file.read()
        except OSError:
            continue
        if text:
            return text
    return b""


class Ends:
    """Notes when processes end, in a thread of its own; by `time.monotonic`."""

    def __init__(self) -> None:
        self.at: dict[Identity, float] = {}
        self._changed = threading.Condition()
        self._epoll = select.epoll()
        self._fds: dict[int, Identity] = {}
        self._known: set[Identity] = set()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, identities: Iterable[Identity]) -> None:
        """Watch these too; one that is gone has ended now."""
        for identity in set(identities) - self._known:
            self._known.add(identity)
            fd = pidfd.open_pidfd(identity)
            if fd is None:
                self._end(identity)
            else:
                self._fds[fd] = identity
                self._epoll.register(fd, select.EPOLLIN)

    def wait(self, identities: Iterable[Identity], limit: float) -> bool:
        """Until all of these have ended, for ``limit`` seconds; whether they have."""
        wanted = set(identities)
        with self._changed:
            return self._changed.wait_for(lambda: wanted <= self.at.keys(), max(0.0, limit))

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                self._epoll.unregister(fd)
                identity = self._fds.pop(fd)  # before its number can be given to another
                os.close(fd)
                self._end(identity)

    def _end(self, identity: Identity) -> None:
        with self._changed:
            self.at[identity] = time.monotonic()
            self._changed.notify_all()
