"""Releasing a server whose guards are dead, from here: by its mark, with the guards' own ladder."""

from __future__ import annotations

import os

from vllm_magic.guard.ladder import Ladder, Members, Outcome
from vllm_magic.linux import processes, shared_memory


def release(mark: bytes) -> Outcome:
    """Kill whatever carries the mark, and remove the shared memory that it leaves.

    The mark is in the environment of each process of the server from its exec on, so a pid that was given to
    somebody else is never mistaken for it.
    """
    segments: set[shared_memory.Segment] = set()

    def note() -> None:
        segments.update(shared_memory.mapped_by(identity.pid for identity in _members(mark)))

    outcome = Ladder(lambda: _members(mark), leader=None, note=note).run(grace=0.0, patience=0.0)
    shared_memory.unlink_unmapped(segments)
    return outcome


def _members(mark: bytes) -> Members:
    me = os.getpid()
    return {
        process.identity: processes.title(pid) or process.name
        for pid, process in processes.table().items()
        if pid != me and process.alive and processes.has_environment(pid, mark)
    }
