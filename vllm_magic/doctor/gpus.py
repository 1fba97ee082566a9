"""Who holds how much of which GPU."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.linux import details
from vllm_magic.view import View, gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.linux.processes import Table


class Kind(str, Enum):
    """Whom a part of a GPU's memory belongs to."""

    SERVER = "server"  # one of ours
    VLLM = "vllm"  # another process of vLLM
    OTHER = "other"
    HIDDEN = "hidden"  # the driver lists a pid which is not visible here
    UNATTRIBUTED = "unattributed"  # in use, and no process accounts for it


@dataclass(frozen=True)
class Holding:
    """Bytes of one GPU in somebody's hands.

    Attributes:
        kind: whose.
        who: the server's name, or the process's title; "" for nobody's.
        pid: the process; None for nobody's.
        user: its user's name; "" for nobody's.
        bytes: None where the driver does not say.
    """

    kind: Kind
    who: str
    pid: int | None
    user: str
    bytes: int | None


@dataclass(frozen=True)
class Use:
    """One GPU and who holds it. Memory in bytes, None where the driver does not say.

    Attributes:
        holdings: None where the driver does not list processes.
    """

    index: int
    uuid: str
    name: str
    total: int | None
    used: int | None
    free: int | None
    holdings: tuple[Holding, ...] | None


def uses(now: Snapshot, table: Table, servers: Mapping[int, str], vllm: Iterable[int]) -> tuple[Use, ...]:
    """The GPUs, and who holds them.

    Args:
        now: what the driver says.
        table: the processes.
        servers: names of our servers by the pids of their processes.
        vllm: pids of all processes of vLLM.
    """
    others = frozenset(vllm)
    return tuple(
        Use(
            gpu.index,
            gpu.uuid,
            gpu.name,
            gpu.total,
            gpu.used,
            gpu.free,
            _holdings(gpu, table, servers, others),
        )
        for gpu in now.gpus
    )


def view(now: Snapshot, used: Iterable[Use]) -> View:
    """The table of ``gpu``."""
    if not now.gpus:
        return View(f"No GPU can be seen: {now.problem}.")
    rows = tuple(row for one in used for row in _rows(one))
    return View(f"Driver {now.driver}" if now.driver else "", ("GPU", "holder", "memory", "of"), rows)


def named(one: Holding) -> str:
    """The holder as text."""
    if one.kind is Kind.SERVER:
        return f"server {one.who} (pid {one.pid})"
    if one.kind is Kind.HIDDEN:
        return f"a process that is not visible here (pid {one.pid})"
    if one.kind is Kind.UNATTRIBUTED:
        return "unattributed"
    return f"{one.who[:60]} (pid {one.pid}, {one.user})"


def _holdings(
    gpu: Gpu, table: Table, servers: Mapping[int, str], vllm: frozenset[int]
) -> tuple[Holding, ...] | None:
    if gpu.processes is None:
        return None
    found = [_holding(process.pid, process.used, table, servers, vllm) for process in gpu.processes]
    if gpu.unattributed:
        found.append(Holding(Kind.UNATTRIBUTED, "", None, "", gpu.unattributed))
    return tuple(found)


def _holding(
    pid: int, used: int | None, table: Table, servers: Mapping[int, str], vllm: frozenset[int]
) -> Holding:
    process = table.get(pid)
    if process is None:
        return Holding(Kind.HIDDEN, "", pid, "", used)
    user = details.user(details.uid(pid))
    if pid in servers:
        return Holding(Kind.SERVER, servers[pid], pid, user, used)
    kind = Kind.VLLM if pid in vllm else Kind.OTHER
    return Holding(kind, details.short_title(process), pid, user, used)


def _rows(one: Use) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [(f"{one.index}: {one.name}", "all", gib(one.used), gib(one.total))]
    if one.holdings is None:
        rows.append(("", "the driver does not list processes", "", ""))
    rows += [("", named(holding), gib(holding.bytes), "") for holding in one.holdings or ()]
    rows.append(("", "free", gib(one.free), ""))
    return rows
