"""The GPUs, and which processes hold how much of their memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.linux import details
from vllm_magic.sizes import gib
from vllm_magic.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_magic.gpu.devices import Gpu, GpuIndex, Snapshot
    from vllm_magic.linux.processes import Table


class HolderKind(str, Enum):
    """The kind of the holder of a part of a GPU's memory."""

    SERVER = "server"  # a process of a server of ours
    VLLM = "vllm"  # another vLLM process
    OTHER = "other"
    HIDDEN = "hidden"  # the driver lists a pid that is not visible here
    UNATTRIBUTED = "unattributed"  # in use, and no process accounts for it


@dataclass(frozen=True)
class Holding:
    """A part of one GPU's memory and its holder.

    Attributes:
        kind: the kind of the holder.
        who: the name of the server, or the title of the process; "" where neither is known.
        pid: the pid of the process; None where no process accounts for the memory.
        user: the name of the process's user; "" where it is not known.
        bytes: the bytes that are held; None where the driver does not say.
    """

    kind: HolderKind
    who: str
    pid: int | None
    user: str
    bytes: int | None


@dataclass(frozen=True)
class GpuUse:
    """One GPU and the holders of its memory. Memory is in bytes, None where the driver does not say.

    Attributes:
        holdings: the parts of the memory that are held; None where the driver does not list processes.
    """

    index: GpuIndex
    uuid: str
    name: str
    total: int | None
    used: int | None
    free: int | None
    holdings: tuple[Holding, ...] | None


def uses(
    snapshot: Snapshot, table: Table, servers: Mapping[int, str], vllm: Mapping[int, str]
) -> tuple[GpuUse, ...]:
    """Return the GPUs and the holders of their memory.

    Args:
        snapshot: the driver's snapshot.
        table: the table of processes.
        servers: the names of our servers, by the pids of their processes.
        vllm: the names of all vLLM processes, by their pids.
    """
    return tuple(
        GpuUse(
            gpu.index,
            gpu.uuid,
            gpu.name,
            gpu.total,
            gpu.used,
            gpu.free,
            _holdings(gpu, table, servers, vllm),
        )
        for gpu in snapshot.gpus
    )


def view(snapshot: Snapshot, used: Iterable[GpuUse]) -> View:
    """Return the table for ``vllm-magic gpu``."""
    if not snapshot.gpus:
        return View(f"No GPU can be seen: {snapshot.problem}.")
    rows = tuple(row for use in used for row in _rows(use))
    return View(
        f"Driver {snapshot.driver}" if snapshot.driver else "", ("GPU", "holder", "memory", "of"), rows
    )


def holder_text(holding: Holding) -> str:
    """Return the holder as text."""
    if holding.kind is HolderKind.SERVER:
        return f"server {holding.who} (pid {holding.pid})"
    if holding.kind is HolderKind.HIDDEN:
        return f"a process that is not visible here (pid {holding.pid})"
    if holding.kind is HolderKind.UNATTRIBUTED:
        return "unattributed"
    return f"{holding.who[:60]} (pid {holding.pid}, {holding.user})"


def _holdings(
    gpu: Gpu, table: Table, servers: Mapping[int, str], vllm: Mapping[int, str]
) -> tuple[Holding, ...] | None:
    if gpu.processes is None:
        return None
    holdings = [_holding(process.pid, process.used, table, servers, vllm) for process in gpu.processes]
    if gpu.unattributed:
        holdings.append(Holding(HolderKind.UNATTRIBUTED, "", None, "", gpu.unattributed))
    return tuple(holdings)


def _holding(
    pid: int, used: int | None, table: Table, servers: Mapping[int, str], vllm: Mapping[int, str]
) -> Holding:
    process = table.get(pid)
    if process is None:
        return Holding(HolderKind.HIDDEN, "", pid, "", used)
    user = details.user(details.uid(pid))
    if pid in servers:
        return Holding(HolderKind.SERVER, servers[pid], pid, user, used)
    if pid in vllm:
        return Holding(HolderKind.VLLM, vllm[pid], pid, user, used)
    return Holding(HolderKind.OTHER, details.short_title(process), pid, user, used)


def _rows(use: GpuUse) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [(f"{use.index}: {use.name}", "all", gib(use.used), gib(use.total))]
    if use.holdings is None:
        rows.append(("", "the driver does not list processes", "", ""))
    rows += [("", holder_text(holding), gib(holding.bytes), "") for holding in use.holdings or ()]
    rows.append(("", "free", gib(use.free), ""))
    return rows
