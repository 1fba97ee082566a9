"""The processes near some others, without reading every process of the machine.

A process is in the session of its parent, or in one that it made itself and whose number is its own pid (setsid(2)).
So nobody in a session is below a process unless its maker is, and to know that it suffices to read the maker. The
session of a process is had from a system call, which costs a twentieth of a file in /proc.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.linux import processes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vllm_magic.linux.processes import Identity, Table

Sessions = dict[int, list[int]]


def near(roots: Iterable[int]) -> Table:
    """A table with all processes of the sessions of these pids, of the sessions with these numbers, and all below them.

    Others may be in it. What is below somebody by an adoption is there as well: an orphan has its adopter as parent.
    """
    sessions = by_session()
    where = {pid: session for session, members in sessions.items() for pid in members}
    roots = set(roots)
    related = roots | {where[root] for root in roots if root in where}
    parents = {session: _parents(session, sessions[session]) for session in sessions.keys() - related}
    while new := {
        session for session, above in parents.items() if any(where.get(pid) in related for pid in above)
    }:
        related |= new
        for session in new:
            del parents[session]
    wanted = (processes.read(pid) for session in related for pid in sessions.get(session, ()))
    return {process.identity.pid: process for process in wanted if process}


def made_since(leader: Identity) -> Sessions:
    """The sessions that this process or one below it may have made: those that are not known to be older."""
    return {
        session: members
        for session, members in by_session().items()
        if (maker := processes.read(session)) is None or maker.identity.start >= leader.start
    }


def by_session() -> Sessions:
    """The pids of all processes that are visible now, zombies included, by the number of their session.

    That is 0 for a session of another PID namespace, and for the kernel's own threads.
    """
    found: Sessions = {}
    for pid in processes.pids():
        try:
            found.setdefault(os.getsid(pid), []).append(pid)
        except ProcessLookupError:
            continue
        except PermissionError:  # a security module's rule; the file is open to all
            if process := processes.read(pid):
                found.setdefault(process.session, []).append(pid)
    return found


def _parents(session: int, members: Collection[int]) -> set[int]:
    """The parent of the session's maker; those of all its members where the maker is gone."""
    maker = processes.read(session)
    if maker is not None:
        return {maker.parent}
    return {process.parent for pid in members if (process := processes.read(pid))}
