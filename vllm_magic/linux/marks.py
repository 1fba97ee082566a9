"""Processes that carry a mark: an entry of the environment, there from the exec on, which children inherit.

A pid that was given to somebody else never carries it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.linux import processes, sessions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.linux.processes import Identity, Process, Table
    from vllm_magic.linux.sessions import Look

MARK = "VLLM_MAGIC_SERVER"  # the entry of a server's processes; its value is the id of the server's folder


def members(mark: bytes, leader: Identity | None, known: Iterable[Identity] = ()) -> list[Process]:
    """The living processes with ``mark`` (``b"NAME=value"``), those of the leader's session, ``known`` ones, and all below.

    This process and those above it are none of them, whatever they inherited.
    """
    mine = _own_line()
    look = sessions.look()
    marked = _carriers(look, mark, leader) - mine
    sure = set(known)
    table = look.near(marked | {one.pid for one in sure} | ({leader.pid} if leader is not None else set()))
    pids = set(marked & table.keys())
    pids |= {one.pid for one in sure if one.pid in table and table[one.pid].identity == one} - mine
    if leader is not None and _is_its_session(table, leader, pids):
        pids |= processes.server_members(table, leader)
    pids |= processes.descendants(table, *pids)
    return [table[pid] for pid in pids - mine if table[pid].alive]


def carriers(mark: bytes, leader: Identity | None) -> set[int]:
    """The pids with ``mark``: none is older than the leader, from whom they have it."""
    return _carriers(sessions.look(), mark, leader)


def _carriers(look: Look, mark: bytes, leader: Identity | None) -> set[int]:
    pids = look.made_since(leader) if leader else (pid for some in look.sessions.values() for pid in some)
    return {pid for pid in pids if processes.has_environment(pid, mark)}


def _is_its_session(table: Table, leader: Identity, members: set[int]) -> bool:
    """Whether the session with the leader's number is the leader's still, when he may be long dead.

    A number that nobody used any more may have become another's, who has ended too and left its session behind, as
    a daemon's parent does. Where one of its members is in it, it was in use all the time.
    """
    return leader.pid in table or any(table[pid].session == leader.pid for pid in members)


def _own_line() -> set[int]:
    """This process and its ancestors."""
    line: set[int] = set()
    pid = os.getpid()
    while pid not in line and (process := processes.read(pid)):
        line.add(pid)
        pid = process.parent
    return line
