"""Who else computes on a GPU: which of the processes there are known to be no server's, or another server's of ours."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.linux import details, processes
from vllm_magic.linux.marks import MARK
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from vllm_magic.gpu.devices import ComputeProcess

NAMED = 3  # holders in one line


def unknown(pids: Iterable[int], own: str, kernel: Identity | None) -> set[int]:
    """Those of these processes of which it is not known whose they are.

    Known is this process, the server's kernel, and what belongs to another server of this user: by its mark, by the
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
    leaders = dict(_leaders(own))
    return {pid for pid in wanted if not _is_anothers(pid, own, leaders)}


def told(gpu: int, several: Sequence[ComputeProcess], hidden: Collection[int]) -> str:
    """One line on those who came to a GPU, the largest first; ``hidden`` are the pids that nobody has here."""
    ordered = sorted(several, key=lambda one: one.used or 0, reverse=True)
    more = f", and {len(ordered) - NAMED} more do" if len(ordered) > NAMED else ""
    named = ", ".join(_told(one, hidden) for one in ordered[:NAMED])
    verdict = (
        "it came while this server ran, and is not known to be of it"
        if len(ordered) == 1
        else "they came while this server ran, and are not known to be of it"
    )
    return f"GPU {gpu}: {named}{more}; {verdict}"


def _leaders(own: str) -> Iterator[tuple[int, Identity]]:
    """The leaders and the outer guards of this user's other servers, by pid."""
    with suppress(OSError):  # no ledger that can be read: then nobody is known
        for entry in ledger.entries():
            if entry.record and entry.id != own and entry.condition is not ledger.Condition.FOREIGN:
                for one in filter(None, (entry.record.leader, entry.record.outer, entry.record.inner)):
                    yield one[0], Identity(*one)


def _is_anothers(pid: int, own: str, leaders: dict[int, Identity]) -> bool:
    return processes.environment(pid).get(MARK, own) != own or processes.leader_of(pid, leaders) is not None


def _told(one: ComputeProcess, hidden: Collection[int]) -> str:
    who = "which is not visible here," if one.pid in hidden else f"of {details.user(details.uid(one.pid))}"
    return f"pid {one.pid} {who} holds {f'{one.used / 2**30:.1f} GiB' if one.used else 'an unknown amount'}"
