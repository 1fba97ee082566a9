"""Kill the processes of a server whose guards are dead, with the guards' own ladder, in this process; and kill hung guards."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.guard import record
from vllm_magic.guard.ladder import Ladder, Members, Outcome
from vllm_magic.linux import marks, pidfd, processes, shared_memory
from vllm_magic.linux.shared_memory import Segment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vllm_magic.ledger import Folder
    from vllm_magic.linux.processes import Identity

EXIT_LIMIT = 10.0  # seconds in which a guard must be gone after SIGKILL


def kill_guards(guards: Collection[Identity]) -> bool:
    """Send SIGKILL to guards, and return whether they are gone.

    They are stopped first, so that none of them reacts to the end of another.
    """
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for guard in guards:
            pidfd.send(guard, number)
    return not pidfd.wait_for_all(guards, EXIT_LIMIT)


def kill_server(paths: Folder, leader: Identity | None, known: Iterable[Identity] = ()) -> Outcome:
    """Kill each process of the server (`marks.members`, and `known`), one by one, and remove the server's shared memory.

    Process groups are not killed as a whole, since they may have members that do not belong to the server. The groups of
    the leader's session have no such members: they are stopped as a whole, so that their processes cannot fork meanwhile.

    This waits for every process that it has found, even if the process loses the mark. An ending process loses its memory,
    and so its environment, before its device files are closed (do_exit in Linux's kernel/exit.c), which may take time.

    Args:
        paths: the private folder of the server. It says which shared memory the server mapped, and which existed before the
            server; if it cannot be read, no shared memory is removed.
        leader: the server's first process, or None.
        known: the processes that are known to belong to the server, with or without the mark.

    Returns:
        The processes that ended, and those that are left.
    """
    mapped, ours = recorded_segments(paths), set(known)

    def find() -> Members:
        found = {process.identity: process for process in marks.members(paths.mark, leader, ours)}
        found.update(
            (identity, now) for identity in ours - found.keys() if (now := processes.living(identity))
        )
        # A hidden process can be attributed to the server only by its parent, while the parent lives.
        hidden = [child for parent in found for child in processes.hidden_children(parent.pid)]
        found.update((child.identity, child) for child in hidden)
        ours.update(found)
        return [*found.values()]

    def before_signal(members: Members) -> None:
        # A process in state D may hold the lock that a read of its maps waits for.
        mapped.update(
            shared_memory.mapped_by(process.identity.pid for process in members if process.state != "D")
        )

    ladder = Ladder(
        find,
        leader=None,
        before_signal=before_signal,
        is_empty=lambda: not find(),
        trackers_last=True,
        whole_groups=False,
        session=leader.pid if leader else None,
    )
    outcome = ladder.run(grace=0.0, patience=0.0)
    shared_memory.unlink_unmapped(mapped, ledger.existing_segments(paths.path))
    return outcome


def recorded_segments(paths: Folder) -> set[Segment]:
    """Return the shared memory that the server mapped once it was ready, by its record: its processes may have ended."""
    try:
        return {Segment(*segment) for segment in ledger.read_record(paths.path).segments}
    except (OSError, record.BrokenRecordError):
        return set()
