"""Who else computes on a GPU: which of the processes there are known to be no server's, or another server's of ours."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.guard import record as records
from vllm_magic.linux import details, marks, processes
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from vllm_magic.gpu.devices import ComputeProcess
    from vllm_magic.ledger import Entry

NAMED = 3  # holders in one line


def unknown(pids: Iterable[int], own: str, kernel: Identity | None) -> set[int]:
    """Those of these processes of which it is not known whose they are.

    Known is this process, the server's kernel, and what belongs to another server of this user: by its seal, by the
    session of its leader, or below its guards, who adopt what flees.

    Args:
        pids: as the driver lists them.
        own: the mark's value of the server that has ended.
        kernel: of that server, where it is another process than this one.
    """
    wanted = set(pids) - {os.getpid()}
    if kernel is not None and processes.is_alive(kernel):
        wanted.discard(kernel.pid)
    if not wanted:
        return set()
    others = list(_others(own))
    leaders = {one.pid: one for entry in others for one in _heads(entry)}
    return {pid for pid in wanted if not _is_anothers(pid, others, leaders)}


def told(gpu: int, several: Sequence[ComputeProcess], hidden: Collection[int]) -> str:
    """One line on those who came to a GPU, the largest first; ``hidden`` are the pids that nobody has here."""
    ordered = sorted(several, key=lambda one: one.used or 0, reverse=True)
    more = f", and {len(ordered) - NAMED} more do" if len(ordered) > NAMED else ""
    named = ", ".join(_told(one, hidden) for one in ordered[:NAMED])
    verdict = (
        "it came while this server ran, and is not known to belong to it"
        if len(ordered) == 1
        else "they came while this server ran, and are not known to belong to it"
    )
    return f"GPU {gpu}: {named}{more}; {verdict}"


def _others(own: str) -> Iterator[Entry]:
    """This user's other servers."""
    with suppress(OSError):  # no ledger that can be read: then nobody is known
        for entry in ledger.entries():
            if entry.record and entry.id != own and entry.condition is not ledger.Condition.FOREIGN:
                yield entry


def _heads(entry: Entry) -> Iterator[Identity]:
    """Its leader, its guards, and those whom these adopted."""
    record = entry.record
    if record is not None:
        named = (record.leader, record.outer, record.inner, *records.known(str(entry.path)))
        yield from (Identity(*one) for one in named if one)


def _is_anothers(pid: int, others: Iterable[Entry], leaders: Mapping[int, Identity]) -> bool:
    proved = any(marks.is_proved(pid, entry.folder.mark) for entry in others)
    return proved or processes.leader_of(pid, leaders) is not None


def _told(one: ComputeProcess, hidden: Collection[int]) -> str:
    who = "which is not visible here," if one.pid in hidden else f"of {details.user(details.uid(one.pid))}"
    return f"pid {one.pid} {who} holds {f'{one.used / 2**30:.1f} GiB' if one.used else 'an unknown amount'}"
