"""The survey reads everything once. It changes and creates nothing, and raises no error for missing data."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import vllm_magic
from vllm_magic import ledger
from vllm_magic.children import installed
from vllm_magic.doctor import blind, checks, gpus, unowned
from vllm_magic.doctor.findings import Report, ReportedListener, ReportedRelease, ReportedServer, ReportedTree
from vllm_magic.engine import environments, versions
from vllm_magic.engine.flags import flag_table
from vllm_magic.gpu import locks
from vllm_magic.guard.record import Phase
from vllm_magic.ledger import Condition, Entry
from vllm_magic.linux import details, machine, memory, processes, sockets
from vllm_magic.linux.marks import MARK
from vllm_magic.linux.processes import Identity
from vllm_magic.recovery import hung_guards, orphaned_commands

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vllm_magic.children.installed import Installed
    from vllm_magic.doctor.unowned import Tree
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.record import Record
    from vllm_magic.linux.processes import Table

DEFAULT_PORT = 8000  # vLLM's default


@dataclass(frozen=True)
class Ledger:
    """The entries on disk; ``problem`` says why they cannot be read, "" where they can."""

    entries: tuple[Entry, ...]
    problem: str


def survey(probe: Probe, executable: str | None = None) -> Report:
    """Survey the GPUs, the processes, the ports, the ledger, the locks and the vLLM that a start would run.

    Args:
        probe: the probe that asks the driver; a driver that hangs costs the probe's time limit.
        executable: the configured path of vLLM; None where there is none.
    """
    now = probe.snapshot()
    wrong = machine.proc_problem()
    known = Ledger((), "") if wrong else read_ledger()
    members = {entry.id: _pids(entry) for entry in known.entries}
    table = {} if wrong else processes.table()
    trees = unowned.trees(table, (pid for pids in members.values() for pid in pids))
    servers = _reported_servers(known.entries, members, now, table)
    elsewhere = tuple(
        _reported_tree(tree, now, table) for tree in trees if tree.owner is not unowned.Owner.OURS
    )
    vllm = installed.find(executable)
    releases, locked = _releases()
    names = {pid: server.name for server in servers for pid in server.pids}
    findings = (
        *checks.proc(wrong),
        *checks.guards(servers),
        *checks.orphans(servers),
        *checks.commands(orphaned_commands.find()),
        *checks.unowned(elsewhere),
        *checks.left(known.entries),
        *checks.records(known.entries),
        *checks.ports(servers),
        *checks.folders(known.problem, locked),
        *checks.driver(now),
        *checks.vllm(vllm),
        *checks.installations(environments.installed(), environments.broken(), environments.chosen_name()),
        *checks.limits(now, vllm.version),
    )
    return Report(
        version=vllm_magic.__version__,
        findings=findings,
        vllm=vllm,
        vllm_notes=tuple(_vllm_notes(vllm)),
        driver=now.driver,
        gpus=gpus.uses(now, table, names, _holder_names(trees, now)),
        servers=servers,
        elsewhere=elsewhere,
        releases=releases,
        default_port=_listening([DEFAULT_PORT], table)[DEFAULT_PORT],
        unseen=(*blind.spots(now, table), *_foreign(known.entries)),
        state_folder=_state_folder(),
    )


def holders(probe: Probe) -> tuple[Snapshot, tuple[gpus.GpuUse, ...]]:
    """Return the snapshot and the holders of each GPU's memory: the part of the survey that ``vllm-magic gpu`` shows."""
    now = probe.snapshot()
    names = {pid: _name(entry) for entry in read_ledger().entries for pid in _pids(entry)}
    table = processes.table()
    return now, gpus.uses(now, table, names, _holder_names(unowned.trees(table), now))


def _holder_names(trees: Iterable[Tree], snapshot: Snapshot) -> dict[int, str]:
    """Return the names of the vLLM processes that the driver lists, by their pids."""
    listed = {process.pid for gpu in snapshot.gpus for process in gpu.processes or ()}
    return {
        process.identity.pid: unowned.holder_name(tree, process)
        for tree in trees
        for process in tree.processes
        if process.identity.pid in listed
    }


def servers() -> tuple[ReportedServer, ...]:
    """Return the servers in the ledger: the part of the survey that ``vllm-magic ps`` shows. The driver is not asked.

    Raises:
        OSError: the state folder is not private to this user, or cannot be read.
    """
    entries = ledger.entries()
    return _reported_servers(entries, {entry.id: _pids(entry) for entry in entries}, None, processes.table())


def read_ledger() -> Ledger:
    """Return the entries, or why they cannot be read."""
    try:
        return Ledger(tuple(map(_with_hang, ledger.entries())), "")
    except OSError as error:
        return Ledger((), (error.strerror and f"{error.filename}: {error.strerror}") or str(error))


def _with_hang(entry: Entry) -> Entry:
    """Return the entry, as hung where its guards do not answer."""
    return replace(entry, condition=Condition.HUNG) if hung_guards.is_hung(entry) else entry


def _vllm_notes(found: Installed) -> Iterator[str]:
    if note := versions.note(found.version):
        yield note
    if found.executable and (failure := flag_table.failure(found.executable)):
        yield (
            f"Its flags could not be read, so they are neither completed nor checked before a start: {failure}"
        )


def _name(entry: Entry) -> str:
    return entry.record.name if entry.record else entry.id


def _pids(entry: Entry) -> tuple[int, ...]:
    return tuple(sorted(process.identity.pid for process in entry.processes))


def _reported_servers(
    entries: Iterable[Entry], members: Mapping[str, tuple[int, ...]], snapshot: Snapshot | None, table: Table
) -> tuple[ReportedServer, ...]:
    records = [
        (entry, entry.record)
        for entry in entries
        if entry.record and entry.condition is not Condition.FOREIGN
    ]
    listening = _listening([record.port for _, record in records], table)
    return tuple(
        _server(entry, record, pids, held(snapshot, pids), listening[record.port])
        for entry, record in records
        for pids in [members[entry.id]]
    )


def _kept_until(entry: Entry, record: Record) -> float | None:
    """Return the time when the guards end a kept server; None if it is not kept."""
    if record.kept_for is not None:
        return time.time() + record.kept_for
    # The guards are about to write the time, or had no disk space for it.
    return time.time() + record.keep if entry.condition is Condition.KEPT else None


def _server(
    entry: Entry,
    record: Record,
    pids: tuple[int, ...],
    used: int | None,
    listening: tuple[ReportedListener, ...],
) -> ReportedServer:
    return ReportedServer(
        name=record.name,
        id=entry.id,
        folder=str(entry.path),
        model=record.model,
        condition=entry.condition.value,
        phase=record.phase,
        url=record.url,
        port=record.port,
        since=record.since,
        kept_until=_kept_until(entry, record),
        kernel=record.kernel[0],
        kernel_lives=processes.is_alive(Identity(*record.kernel)),
        pids=pids,
        bytes=used,
        listening=listening,
        memory=sum(map(memory.used_by, pids)) if record.phase == Phase.SPARE else None,
        stopped=tuple(guard.pid for guard in entry.guards) if entry.are_guards_stopped else (),
        cluster=record.cluster,
        job=record.job,
    )


def _reported_tree(tree: Tree, snapshot: Snapshot, table: Table) -> ReportedTree:
    root = tree.root
    pids = tuple(sorted(tree.pids))
    return ReportedTree(
        pid=root.identity.pid,
        title=unowned.display_name(root),
        user=details.user(tree.uid),
        owner=tree.owner.value,
        above=tree.above,
        age=details.age(root.identity),
        group=root.group,
        pids=pids,
        bytes=held(snapshot, pids),
        ours=_is_marked(root.session, table),
    )


def _is_marked(session: int, table: Table) -> bool:
    """Whether any process of the session carries the mark.

    A title that a process wrote over its environment (setproctitle) hides the mark, so one process does not suffice.
    """
    there = (table[pid] for pid in processes.session_members(table, session))
    return any(MARK in processes.environment(member.identity.pid) for member in there if member.state != "D")


def held(snapshot: Snapshot | None, pids: Iterable[int]) -> int | None:
    """Return the bytes that these processes hold by the driver's report; None if it does not report them, or was not asked."""
    if snapshot is None:
        return None
    wanted = frozenset(pids)
    listed = [
        process.used for gpu in snapshot.gpus for process in gpu.processes or () if process.pid in wanted
    ]
    blank = not snapshot.gpus or any(gpu.processes is None for gpu in snapshot.gpus) or None in listed
    return None if blank else sum(used or 0 for used in listed)


def _listening(ports: Iterable[int], table: Table) -> dict[int, tuple[ReportedListener, ...]]:
    wanted = list(ports)
    found: dict[int, tuple[ReportedListener, ...]] = dict.fromkeys(wanted, ())
    for listener in sockets.listeners(wanted, table):
        process = table.get(listener.pid) if listener.pid else None
        who = details.short_title(process) if process else ""
        found[listener.port] += (
            ReportedListener(listener.port, listener.pid, who, details.user(listener.uid)),
        )
    return found


def _releases() -> tuple[tuple[ReportedRelease, ...], str]:
    """Return the releases that are under way, and what is wrong with the locks; "" for nothing."""
    try:
        return tuple(
            ReportedRelease(uuid, pids) for uuid, pids in locks.releases_under_way().items()
        ), locks.lock_problem()
    except OSError as error:
        return (), str(error)


def _state_folder() -> str:
    try:
        return str(ledger.state_path())
    except OSError:  # a finding reports the error
        return ""


def _foreign(entries: Iterable[Entry]) -> list[str]:
    return [
        f"The server {_name(entry)} in {entry.path}: {entry.problem}. Run vllm-magic doctor there."
        for entry in entries
        if entry.condition is Condition.FOREIGN and not checks.of_an_earlier_boot(entry)
    ]
