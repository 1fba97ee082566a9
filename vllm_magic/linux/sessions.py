"""Find the sessions and the descendants of given processes without reading every process of the machine.

A process is in the session of its parent, or in a session that it made itself, whose number is its own pid (setsid(2)). So
if the maker of a session is no descendant of a process, no member of the session is, and only the maker has to be read. The
session of a process comes from a system call, which takes a twentieth of the time that a file in /proc takes.
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


# The session of processes whose session has no number here: of another PID namespace, or of the kernel's own threads.
UNKNOWN_SESSION = 0
LOCK_LIMIT = 1.0  # seconds to wait for the scan of another thread, which does not exist in a forked child


class SessionScan:
    """The processes of the machine at one moment, including zombies, by session.

    Attributes:
        sessions: the pids, by the number of the session, or `UNKNOWN_SESSION`.
    """

    def __init__(self) -> None:
        self.sessions: dict[int, list[int]] = {}
        self._makers: dict[int, Process | None] = {}
        for pid in processes.pids():
            session = _session(pid)
            if session is not None:
                self.sessions.setdefault(session, []).append(pid)

    def near(self, roots: Iterable[int]) -> Table:
        """Return a table with at least all processes of the roots' sessions, and all their descendants.

        An adopted orphan counts as a child of the process that adopted it.

        Args:
            roots: pids of processes, or numbers of sessions.
        """
        where = {pid: session for session, members in self.sessions.items() for pid in members}
        roots = set(roots)
        related = roots | {where[root] for root in roots if root in where}
        others = self.sessions.keys() - related - {UNKNOWN_SESSION}
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
        """Yield the pids of the sessions that the leader or a descendant of it may have made: those not known to be older."""
        for session, members in self.sessions.items():
            if session == UNKNOWN_SESSION:
                continue
            maker = self._maker(session)
            if maker is None or maker.identity.start >= leader.start:
                yield from members

    def _maker(self, session: int) -> Process | None:
        """Return the process that made the session, which is read only once; None if it is gone."""
        if session not in self._makers:
            self._makers[session] = processes.read(session)
        return self._makers[session]

    def _parents(self, session: int) -> set[int]:
        """Return the parent of the session's maker; the parents of all its members if the maker is gone."""
        maker = self._maker(session)
        if maker is not None:
            return {maker.parent}
        return {process.parent for pid in self.sessions[session] if (process := processes.read(pid))}


class _SharedScans:
    """Lets threads share a scan. A call returns the scan of another thread if that scan began after the call.

    A scan is not kept for longer than a thread waits for it: on a large machine it takes megabytes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: tuple[float, SessionScan] | None = None
        self._calls: set[object] = set()  # the calls that are under way; add and discard are atomic

    def scan(self) -> SessionScan:
        asked, call = time.monotonic(), object()
        self._calls.add(call)
        if not self._lock.acquire(timeout=LOCK_LIMIT):
            self._calls.discard(call)
            return SessionScan()
        try:
            if self._latest is None or self._latest[0] < asked:
                self._latest = time.monotonic(), SessionScan()
            return self._latest[1]
        finally:
            self._calls.discard(call)
            if not self._calls:  # a later call needs a later scan
                self._latest = None
            self._lock.release()


_scans = _SharedScans()


def scan() -> SessionScan:
    """Return a scan that began after this call, perhaps by another thread."""
    return _scans.scan()


def near(roots: Iterable[int]) -> Table:
    """Return the table of `SessionScan.near` from a new scan."""
    return scan().near(roots)


def server_members(leader: Identity) -> list[Process]:
    """Return the processes of a leader's session and all their descendants, including zombies; see `processes.server_members`."""
    table = near([leader.pid])
    return [table[pid] for pid in processes.server_members(table, leader)]


def _session(pid: int) -> int | None:
    """Return the number of a process's session; None if the process is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
    except PermissionError:  # by the rule of a security module; every user can read the file
        process = processes.read(pid)
        return process.session if process else None
