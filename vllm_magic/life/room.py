"""Whether a server fits on its GPUs before it is started, and what can be done where it does not.

vLLM wants a share of each GPU free once it has begun to use it (request_memory in its v1/worker/utils.py), and says
so only after its imports, half a minute later. Nothing is refused here that vLLM might accept: where the driver or
the flags leave a doubt, it is vLLM who says so.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine import command, flags
from vllm_magic.errors import Holder, NotEnoughMemory
from vllm_magic.gpu.choice import has_free, needed
from vllm_magic.gpu.visible import visible
from vllm_magic.ledger import Condition
from vllm_magic.linux import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.ledger import Entry
    from vllm_magic.linux.processes import Table

GIB = 2**30
CONTEXT = GIB  # bytes that the driver and CUDA take for a process before vLLM looks what is free; about half as much
SMALLEST = 0.1  # of a GPU; with less there is no use in starting
NAMED = 3  # holders in the one line; the others follow below


@dataclass(frozen=True)
class Shortage:
    """Where a server does not fit.

    Attributes:
        short: the GPUs with too little free memory.
        share: of each GPU, that it wants.
        fitting: the largest share that would fit, rounded down; None where none is of use.
    """

    short: tuple[Gpu, ...]
    share: float
    fitting: float | None


def share(spec: ServerSpec) -> float:
    """The share of each GPU that has to be free, 0 to 1; 0.0 where that is not asked for, or cannot be told."""
    if spec.force or flags.has(spec.all_args, "--kv-cache-memory-bytes"):
        return 0.0
    wanted = command.memory_fraction(spec.all_args)
    return wanted if 0 < wanted <= 1 else 0.0  # vLLM refuses any other in words of its own


def shortage(
    spec: ServerSpec, environ: Mapping[str, str], now: Snapshot, chosen: tuple[Gpu, ...]
) -> Shortage | None:
    """Where it does not fit; None where it does, or where that cannot be told.

    Args:
        spec: what was asked for.
        environ: the kernel's environment.
        now: the GPUs.
        chosen: those that were chosen for it; () when vLLM chooses, or when there were too few for "auto".
    """
    count, wanted = command.gpu_count(spec.all_args), share(spec)
    too_few = spec.gpus is not None and not chosen
    if too_few:
        gpus = now.gpus
    elif chosen:
        gpus = chosen[:count]
    else:
        seen = visible(now.gpus, {**environ, **dict(spec.env)})
        gpus = seen.gpus[:count] if seen.ordered else seen.gpus
    # A GPU without a list of processes may be cut in parts (MIG), of which each has memory of its own.
    short = tuple(gpu for gpu in gpus if not has_free(gpu, wanted) and (too_few or gpu.processes is not None))
    if len(gpus) < count or len(gpus) - len(short) >= count:
        return None
    shares = sorted(map(_largest_share, gpus), reverse=True)
    # Of GPUs to choose from the freest count; where CUDA's order is not known it may be any of them.
    largest = int(100 * (shares[count - 1] if too_few else shares[-1])) / 100
    return Shortage(short, wanted, largest if SMALLEST <= largest < wanted else None)


def refusal(name: str, lacking: Shortage) -> NotEnoughMemory:
    """The error for a server that does not fit: who holds the memory, and the ways out."""
    table = processes.table()
    owners = _owners()
    found = holders(lacking.short, table, owners)
    states = ", ".join(
        f"GPU {gpu.index} has {_gib(gpu.free)} free of {_gib(needed(gpu, lacking.share))} needed"
        for gpu in lacking.short
    )
    return NotEnoughMemory(
        f"{name} does not fit: {states}. {_line(found)}",
        found,
        details=[
            *(f"  {_told(one)}" for one in (found if len(found) > NAMED else ())),
            *(f"  {way}" for way in _ways_out(lacking, found, table, owners)),
        ],
    )


def holders(
    gpus: Sequence[Gpu], table: Table | None = None, owners: Mapping[int, Entry] | None = None
) -> list[Holder]:
    """Who holds memory of these GPUs, the largest first; the table of processes and their owners, where at hand."""
    table = processes.table() if table is None else table
    owners = _owners() if owners is None else owners
    found = [holder for gpu in gpus for holder in _holders(gpu, table, owners)]
    return sorted(found, key=lambda one: one.used or 0, reverse=True)


def told(several: Sequence[Holder]) -> str:
    """The largest of them in words."""
    others = len(several) - NAMED
    more = f", and {others} more" if others > 0 else ""
    return f"{', '.join(map(_told, several[:NAMED]))}{more}"


def _largest_share(gpu: Gpu) -> float:
    return 1.0 if gpu.free is None or not gpu.total else (gpu.free - CONTEXT) / gpu.total


def _owners() -> dict[int, Entry]:
    """Whose process a pid is, of the servers in the ledger."""
    with suppress(OSError):
        return {one.identity.pid: entry for entry in ledger.entries() for one in entry.processes}
    return {}


def _holders(gpu: Gpu, table: Table, owners: Mapping[int, Entry]) -> Iterator[Holder]:
    for process in gpu.processes or ():
        name = _name(table, process.pid)
        owner = owners.get(process.pid)
        server = owner.record.name if owner and owner.record else ""
        yield Holder(gpu.index, process.pid, _user(process.pid), name, process.used, server)
    if gpu.unattributed or gpu.processes is None:
        yield Holder(gpu.index, None, "", "no process that the driver names", gpu.unattributed or gpu.used)


def _name(table: Table, pid: int) -> str:
    """What it is called: a program, and for an interpreter its script, without their folders and arguments."""
    if pid not in table:
        return "a process that is not visible here"
    words = processes.shown_name(table[pid]).split(" ")
    shown = [word.rpartition("/")[2] for word in words[:2] if not word.startswith("-")]
    return " ".join(shown if shown and shown[0].startswith("python") else shown[:1])[:40]


def _user(pid: int) -> str:
    import psutil

    try:
        return psutil.Process(pid).username()
    except psutil.Error:
        return ""


def _line(several: list[Holder]) -> str:
    return f"Held by {told(several)}." if several else "The driver does not say who holds it."


def _told(one: Holder) -> str:
    who = ", ".join(filter(None, (f"pid {one.pid}" if one.pid is not None else "", one.user)))
    what = f"server {one.server}" if one.server else one.name
    return f"{what}{f' ({who})' if who else ''}: {_gib(one.used)}"


def _ways_out(
    lacking: Shortage, several: list[Holder], table: Table, owners: Mapping[int, Entry]
) -> Iterator[str]:
    if lacking.fitting is not None:
        yield f"--gpu-memory-utilization {lacking.fitting:g}  would fit"
    found = (_way_out(one.pid, table, owners) for one in several if one.pid is not None)
    yield from dict.fromkeys(filter(None, found))
    yield "--force  starts it all the same"


def _way_out(pid: int, table: Table, owners: Mapping[int, Entry]) -> str:
    owner = owners.get(pid)
    if owner is None or owner.record is None:
        left = _left_by_vllm(table, pid)
        return f"vllm-magic reap --pid {left}  releases a vLLM that nobody owns" if left else ""
    if owner.condition in (Condition.ORPHANED, Condition.HUNG):
        return f"%vllm reap  releases {owner.record.name}, whose kernel is gone"
    if owner.record.kernel[0] == os.getpid():
        return f"%vllm stop {owner.record.name}"
    return f"vllm-magic stop {owner.record.name}  in a terminal: it belongs to another kernel"


def _left_by_vllm(table: Table, pid: int) -> int | None:
    """The uppermost process of an engine whose API server is gone; None for one that has it, or for no engine.

    All of a vLLM is in one session, so a parent outside of it is whoever adopts orphans.
    """
    process = table.get(pid)
    if process is None or not processes.shown_name(process).startswith("VLLM::"):
        return None
    parent = table.get(process.parent)
    if parent is not None and parent.session == process.session:
        return _left_by_vllm(table, process.parent)
    return pid


def _gib(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / GIB:.1f} GiB"
