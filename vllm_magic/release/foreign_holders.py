"""Find the unknown processes on a GPU: they belong to no other server of this user, and to no fast start of vLLM."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine import fast_start
from vllm_magic.linux import details, marks, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.sizes import gib_if_known

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from vllm_magic.gpu.devices import ComputeProcess, GpuIndex
    from vllm_magic.ledger import Entry

MOST_NAMED = 3  # processes named in one line


def unknown_pids(pids: Iterable[int], own: str, kernel: Identity | None) -> set[int]:
    """Return the processes whose owner is not known.

    Known processes are this process, the server's kernel, and the processes of this user's other servers. A
    process belongs to such a server if it has the server's seal, is in the session of the server's leader, or
    is below the server's guards, which adopt processes whose parents have ended. The weight cache daemons of
    ``vllm preload`` and the processes of ``vllm snapshot`` are known as well: no server starts them.

    Args:
        pids: as the driver lists them.
        own: the mark's value for the server that has ended.
        kernel: the kernel of that server, if it is not this process.
    """
    wanted = set(pids) - {os.getpid()}
    if kernel is not None and processes.is_alive(kernel):
        wanted.discard(kernel.pid)
    if not wanted:
        return set()
    others = list(_others(own))
    leaders = {root.pid: root for entry in others for root in _roots(entry)}
    unknown = {pid for pid in wanted if not _belongs_to_other(pid, others, leaders)}
    table = processes.table() if unknown else {}
    return {pid for pid in unknown if fast_start.origin(table, pid) is None}


def describe(gpu: GpuIndex, holders: Sequence[ComputeProcess], hidden: Collection[int]) -> str:
    """Return a line about the processes that came to a GPU, the largest first.

    Args:
        gpu: the index of the GPU.
        holders: the processes.
        hidden: the pids that are not visible here.
    """
    ordered = sorted(holders, key=lambda process: process.used or 0, reverse=True)
    more = f", and {len(ordered) - MOST_NAMED} more do" if len(ordered) > MOST_NAMED else ""
    named = ", ".join(_describe_process(process, hidden) for process in ordered[:MOST_NAMED])
    suffix = (
        "it came while this server ran, and is not known to belong to it"
        if len(ordered) == 1
        else "they came while this server ran, and are not known to belong to it"
    )
    return f"GPU {gpu}: {named}{more}; {suffix}"


def _others(own: str) -> Iterator[Entry]:
    """Yield this user's other servers."""
    with suppress(OSError):  # the ledger cannot be read: then no server is known
        for entry in ledger.entries():
            if entry.record and entry.id != own and entry.condition is not ledger.Condition.FOREIGN:
                yield entry


def _roots(entry: Entry) -> Iterator[Identity]:
    """Yield the server's leader, its guards, and the processes that the guards have seen below them."""
    record = entry.record
    if record is not None:
        yield from (Identity(*pair) for pair in (record.leader, record.outer, record.inner) if pair)
        yield from ledger.known_processes(entry.path)


def _belongs_to_other(pid: int, others: Iterable[Entry], leaders: Mapping[int, Identity]) -> bool:
    proved = any(marks.is_proved(pid, entry.folder.mark) for entry in others)
    return proved or processes.leader_of(pid, leaders) is not None


def _describe_process(process: ComputeProcess, hidden: Collection[int]) -> str:
    pid = process.pid
    who = "which is not visible here," if pid in hidden else f"of {details.user(details.uid(pid))}"
    return f"pid {pid} {who} holds {gib_if_known(process.used or None)}"
