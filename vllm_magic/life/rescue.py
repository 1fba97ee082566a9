"""Releasing a server whose guards are dead, from here, with the guards' own ladder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.guard.ladder import Ladder, Members, Outcome
from vllm_magic.linux import processes, shared_memory

if TYPE_CHECKING:
    from vllm_magic.linux.processes import Identity


def release(mark: bytes, leader: Identity | None) -> Outcome:
    """Kill what carries the mark, what is in the leader's session, and all that is below; remove its shared memory.

    The mark is in the environment of each process of the server from its exec on, so a pid that was given to
    somebody else is never mistaken for it.
    """
    segments: set[shared_memory.Segment] = set()

    def find() -> Members:
        return members(mark, leader)

    def note() -> None:
        segments.update(shared_memory.mapped_by(one.identity.pid for one in find()))

    ladder = Ladder(find, leader=None, note=note, empty=lambda: not find())
    outcome = ladder.run(grace=0.0, patience=0.0)
    shared_memory.unlink_unmapped(segments)
    return outcome


def members(mark: bytes, leader: Identity | None) -> Members:
    """The living processes of a server, wherever they fled to."""
    table = processes.table()
    pids = {pid for pid in table if processes.has_environment(pid, mark)} - {os.getpid()}
    if leader is not None:
        pids |= processes.server_members(table, leader)
    for pid in tuple(pids):
        pids |= processes.descendants(table, pid)
    return [table[pid] for pid in pids if table[pid].alive]
