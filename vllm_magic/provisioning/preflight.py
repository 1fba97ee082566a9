"""Whether a server fits on its GPUs, checked before its start, and what the user can do if it does not.

vLLM needs a share of each GPU to be free (request_memory in its v1/worker/utils.py), but checks this only after its
imports, half a minute after the start. A start that vLLM might accept is never refused here: if the driver or the flags
leave a doubt, vLLM decides.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine import command
from vllm_magic.engine.capacity.memory_need import CONTEXT
from vllm_magic.engine.flags import flags
from vllm_magic.errors import Holder, NotEnoughMemory
from vllm_magic.gpu.choice import has_free, needed
from vllm_magic.gpu.visible import visible
from vllm_magic.ledger import Condition
from vllm_magic.linux import details, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.sizes import gib, gib_if_known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.ledger import Entry
    from vllm_magic.linux.processes import Table

SMALLEST = 0.1  # share of a GPU; a start with less is of no use
NAMED = 3  # holders in the first line of the error; with more, all are listed below it


@dataclass(frozen=True)
class Shortage:
    """The GPUs on which a server does not fit.

    Attributes:
        short: the GPUs with too little free memory.
        share: the share of each GPU that the server needs, 0 to 1.
        fitting: the largest share that would fit, rounded down; None if that is too small to be of use.
    """

    short: tuple[Gpu, ...]
    share: float
    fitting: float | None


def share(spec: ServerSpec) -> float:
    """Return the share of each GPU that must be free, 0 to 1; 0.0 if vLLM requires none, or if it is not known."""
    if spec.force or flags.has(spec.all_args, "--kv-cache-memory-bytes"):
        return 0.0
    wanted = command.memory_fraction(spec.all_args)
    return wanted if 0 < wanted <= 1 else 0.0  # vLLM itself refuses any other value


def shortage(
    spec: ServerSpec, environ: Mapping[str, str], snapshot: Snapshot, chosen: tuple[Gpu, ...]
) -> Shortage | None:
    """Return the GPUs on which a server does not fit; None if it fits, or if that is not known.

    Args:
        spec: the server to start.
        environ: the kernel's environment.
        snapshot: the GPUs as they are now.
        chosen: the GPUs that were chosen for the server; () when vLLM chooses, or when there were too few for "auto".
    """
    count, wanted = command.gpu_count(spec.all_args), share(spec)
    too_few = spec.gpus is not None and not chosen
    if too_few:
        gpus = snapshot.gpus
    elif chosen:
        gpus = chosen[:count]
    else:
        seen = visible(snapshot.gpus, {**environ, **dict(spec.env)})
        gpus = seen.gpus[:count] if seen.ordered else seen.gpus
    # A GPU without a list of processes may be divided (MIG) into parts with memory of their own.
    short = tuple(gpu for gpu in gpus if not has_free(gpu, wanted) and (too_few or gpu.processes is not None))
    if len(gpus) < count or len(gpus) - len(short) >= count:
        return None
    shares = sorted(map(_largest_share, gpus), reverse=True)
    # With "auto" the GPUs with the most free memory are used. If CUDA's order is unknown, vLLM may use any of the GPUs.
    largest = int(100 * (shares[count - 1] if too_few else shares[-1])) / 100
    return Shortage(short, wanted, largest if SMALLEST <= largest < wanted else None)


def refusal(name: str, lacking: Shortage) -> NotEnoughMemory:
    """Return the error for a server that does not fit, with the holders of the memory and what the user can do."""
    table = processes.table()
    owners = _owners()
    found = holders(lacking.short, table, owners)
    states = ", ".join(
        f"GPU {gpu.index} has {gib_if_known(gpu.free)} free of {gib(needed(gpu, lacking.share), 1)} needed"
        for gpu in lacking.short
    )
    return NotEnoughMemory(
        f"{name} does not fit: {states}. {_line(found)}",
        found,
        details=[
            *(f"  {_holder_text(holder)}" for holder in (found if len(found) > NAMED else ())),
            *(f"  {way}" for way in _ways_out(lacking, found, table, owners)),
        ],
    )


def holders(
    gpus: Sequence[Gpu], table: Table | None = None, owners: Mapping[Identity, Entry] | None = None
) -> list[Holder]:
    """Return the holders of memory on these GPUs, the largest first.

    Args:
        gpus: the GPUs.
        table: all processes; they are read by default.
        owners: the servers in the ledger, by process; they are read by default.
    """
    table = processes.table() if table is None else table
    owners = _owners() if owners is None else owners
    found = [holder for gpu in gpus for holder in _holders(gpu, table, owners)]
    return sorted(found, key=lambda holder: holder.used or 0, reverse=True)


def holders_text(several: Sequence[Holder]) -> str:
    """Return the first `NAMED` holders as text, and the number of the others."""
    others = len(several) - NAMED
    more = f", and {others} more" if others > 0 else ""
    return f"{', '.join(map(_holder_text, several[:NAMED]))}{more}"


def _largest_share(gpu: Gpu) -> float:
    return 1.0 if gpu.free is None or not gpu.total else (gpu.free - CONTEXT) / gpu.total


def _owners() -> dict[Identity, Entry]:
    """Return the servers in the ledger, by each of their processes."""
    with suppress(OSError):
        return {process.identity: entry for entry in ledger.entries() for process in entry.processes}
    return {}


def _identity(table: Table, pid: int) -> Identity:
    """Return the identity of a pid, as in `Entry.processes`."""
    return table[pid].identity if pid in table else Identity(pid, processes.HIDDEN)


def _holders(gpu: Gpu, table: Table, owners: Mapping[Identity, Entry]) -> Iterator[Holder]:
    for process in gpu.processes or ():
        name = _name(table, process.pid)
        owner = owners.get(_identity(table, process.pid))
        server = owner.record.name if owner and owner.record else ""
        yield Holder(gpu.index, process.pid, _user(process.pid), name, process.used, server)
    if gpu.unattributed or gpu.processes is None:
        yield Holder(gpu.index, None, "", "no process that the driver names", gpu.unattributed or gpu.used)


def _name(table: Table, pid: int) -> str:
    """Return a short name of a process: the program, and for Python its script, without folders and arguments."""
    if pid not in table:
        return "a process that is not visible here"
    words = processes.shown_name(table[pid]).split(" ")
    shown = [word.rpartition("/")[2] for word in words[:2] if not word.startswith("-")]
    return " ".join(shown if shown and shown[0].startswith("python") else shown[:1])[:40]


def _user(pid: int) -> str:
    uid = details.uid(pid)
    return "" if uid is None else details.user(uid)


def _line(several: list[Holder]) -> str:
    return f"Held by {holders_text(several)}." if several else "The driver does not say who holds it."


def _holder_text(holder: Holder) -> str:
    who = ", ".join(filter(None, (f"pid {holder.pid}" if holder.pid is not None else "", holder.user)))
    what = f"server {holder.server}" if holder.server else holder.name
    return f"{what}{f' ({who})' if who else ''}: {gib_if_known(holder.used)}"


def _ways_out(
    lacking: Shortage, several: list[Holder], table: Table, owners: Mapping[Identity, Entry]
) -> Iterator[str]:
    if lacking.fitting is not None:
        yield f"--gpu-memory-utilization {lacking.fitting:g}  would fit"
    found = (_way_out(holder.pid, table, owners) for holder in several if holder.pid is not None)
    yield from dict.fromkeys(filter(None, found))
    yield "--force  starts it all the same"


def _way_out(pid: int, table: Table, owners: Mapping[Identity, Entry]) -> str:
    owner = owners.get(_identity(table, pid))
    if owner is None or owner.record is None:
        left = _left_by_vllm(table, pid)
        return f"vllm-magic reap --pid {left}  releases a vLLM that nobody owns" if left else ""
    if owner.condition in (Condition.ORPHANED, Condition.HUNG):
        return f"%vllm reap  releases {owner.record.name}, whose kernel is gone"
    if Identity(*owner.record.kernel) == _identity(table, os.getpid()):
        return f"%vllm stop {owner.record.name}"
    return f"vllm-magic stop {owner.record.name}  in a terminal: it belongs to another kernel"


def _left_by_vllm(table: Table, pid: int) -> int | None:
    """Return the pid of the topmost process of an engine whose API server is gone; None for any other process.

    All processes of one vLLM share a session. So a parent in another session is a process that adopted an orphan.
    """
    process = table.get(pid)
    if process is None or not processes.shown_name(process).startswith("VLLM::"):
        return None
    parent = table.get(process.parent)
    if parent is not None and parent.session == process.session:
        return _left_by_vllm(table, process.parent)
    return pid
