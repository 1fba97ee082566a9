"""Releasing a server whose guards are dead, from here, with the guards' own ladder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.guard.ladder import Ladder, Members, Outcome
from vllm_magic.linux import marks, processes, shared_memory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vllm_magic.linux.processes import Identity
    from vllm_magic.linux.shared_memory import Segment


def release(
    mark: bytes,
    leader: Identity | None,
    before: Collection[Segment] | None,
    segments: Iterable[Segment] = (),
    known: Iterable[Identity] = (),
) -> Outcome:
    """Kill what belongs to the server (`marks.members`) and who is known, one by one; remove its shared memory.

    No process group is killed as a whole: nobody has watched who went into it.

    Who was found once is waited for, also without the mark: a process that ends loses its memory, and the environment
    with it, before its device files are closed (do_exit in the kernel's kernel/exit.c), which takes a driver its time.

    Args:
        mark: of each process of the server, as ``b"NAME=value"``.
        leader: its first process, or None.
        before: the shared memory that was there before it (`guard.record.before`); None if unknown: then none is removed.
        segments: shared memory that it is known to have mapped.
        known: who is known to belong to it, and may have lost the mark, or never had it.
    """
    mapped, ours = set(segments), set(known)

    def find() -> Members:
        found = {one.identity: one for one in marks.members(mark, leader, ours)}
        found.update((one, now) for one in ours - found.keys() if (now := processes.living(one)))
        # Once their parent is gone, nothing tells whose the hidden ones are.
        unseen = [one for pid in [one.pid for one in found] for one in processes.hidden_children(pid)]
        found.update((one.identity, one) for one in unseen)
        ours.update(found)
        return [*found.values()]

    def note(members: Members) -> None:
        # A process in state D may hold the lock that a read of its maps waits for.
        mapped.update(shared_memory.mapped_by(one.identity.pid for one in members if one.state != "D"))

    ladder = Ladder(find, leader=None, note=note, empty=lambda: not find(), tidies=True, whole_groups=False)
    outcome = ladder.run(grace=0.0, patience=0.0)
    shared_memory.unlink_unmapped(mapped, before)
    return outcome
