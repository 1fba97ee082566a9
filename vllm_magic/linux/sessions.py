"""The processes near some others, without reading every process of the machine.

A process is in the session of its parent, or in one that it made itself and whose number is its own pid (setsid(2)).
So nobody in a session is below a process unless its maker is, and to know that it suffices to read the maker. The
session of a process is had from a system call, which costs a twentieth of a file in /proc.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.linux import processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllm_magic.linux.processes import Identity, Process, Table


# In place of a session that nobody here made: of another PID namespace, or of the kernel's own threads.
ELSEWHERE = 0
PATIENCE = 1.0  # seconds for another thread's look; a forked copy may wait for one that it has not


class SessionScan:
    """One look at which processes there are, zombies included, and in which sessions.

    Attributes:
        sessions: their pids, by the number of the session, or `ELSEWHERE`.
    """

    def __init__(self) -> None:
        self.sessions: dict[int, list[int]] = {}
        self._makers: dict[int, Process | None] = {}
        for pid in processes.pids():
            session = _session(pid)
            if session is not None:
                self.sessions.setdefault(session, []).append(pid)

    def near(self, roots: Iterable[int]) -> Table:
        """A table with all processes of the sessions of these pids, of the sessions with these numbers, and all below them.

        Others may be in it. What is below somebody by an adoption is there as well: an orphan has its adopter as parent.
        """
        where = {pid: session for session, members in self.sessions.items() for pid in members}
        roots = set(roots)
        related = roots | {where[root] for root in roots if root in where}
        others = self.sessions.keys() - related - {ELSEWHERE}
        parents = {session: self._parents(session) for session in others}
        while new := {
            session
            for session, above in parents.items()
            if any(where.get(pid, pid) in related for pid in above)
        }:
            related |= new
            for session in new:
                del parents[session]
        wanted = (processes.read(pid) for session in related for pid in self.sessions.get(session, ()))
        return {process.identity.pid: process for process in wanted if process}

    def made_since(self, leader: Identity) -> Iterator[int]:
        """The pids of sessions that this process or one below it may have made: that are not known to be older."""
        for session, members in self.sessions.items():
            if session == ELSEWHERE:
                continue
            maker = self._maker(session)
            if maker is None or maker.identity.start >= leader.start:
                yield from members

    def _maker(self, session: int) -> Process | None:
        """Who made the session, which is read once; None where he is gone."""
        if session not in self._makers:
            self._makers[session] = processes.read(session)
        return self._makers[session]

    def _parents(self, session: int) -> set[int]:
        """The parent of the session's maker; those of all its members where he is gone."""
        maker = self._maker(session)
        if maker is not None:
            return {maker.parent}
        return {process.parent for pid in self.sessions[session] if (process := processes.read(pid))}


class _SharedScans:
    """Has those who ask at the same time share a look: one that began after they asked is as good as their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: tuple[float, SessionScan] | None = None

    def look(self) -> SessionScan:
        asked = time.monotonic()
        if not self._lock.acquire(timeout=PATIENCE):
            return SessionScan()
        try:
            if self._latest is None or self._latest[0] < asked:
                self._latest = time.monotonic(), SessionScan()
            return self._latest[1]
        finally:
            self._lock.release()


_looks = _SharedScans()


def look() -> SessionScan:
    """How it is now; a look of another thread that began after this call may be given."""
    return _looks.look()


def near(roots: Iterable[int]) -> Table:
    """See `SessionScan.near`: as it is now."""
    return look().near(roots)


def _session(pid: int) -> int | None:
    """The number of a process's session; None if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
    except PermissionError:  # a security module's rule; the file is open to all
        process = processes.read(pid)
        return process.session if process else None
