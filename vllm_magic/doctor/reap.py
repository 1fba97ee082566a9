"""Ending a vLLM process that nobody owns, on the user's explicit request.

`unowned` decides which processes may be ended. Each signal is sent through a pidfd to a process that still has the same
pid and start time. The process group gets no signal, since it may be that of the shell that started the process.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import durations, ledger
from vllm_magic.doctor import unowned
from vllm_magic.doctor.unowned import Owner, Role
from vllm_magic.errors import InvalidOption
from vllm_magic.guard.ladder import GRACE, PATIENCE, Ladder, Members
from vllm_magic.ledger import Condition
from vllm_magic.linux import details, machine, processes, shared_memory
from vllm_magic.release.result import EndedProcess
from vllm_magic.sizes import gib
from vllm_magic.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.ledger import Entry
    from vllm_magic.linux.processes import Identity, Process, Table

LISTED_LIMIT = 10.0  # seconds until the driver must have removed dead processes from its list
POLL_INTERVAL = 0.1  # seconds between two reads of that list


@dataclass(frozen=True)
class ProcessTree:
    """A vLLM process without an owner, and its living descendants, which may be ended; the process comes first."""

    processes: tuple[Process, ...]

    @property
    def root(self) -> Process:
        """The process that the user named."""
        return self.processes[0]


@dataclass(frozen=True)
class Reaped:
    """The result of ending a candidate.

    Attributes:
        ended: the processes that are gone.
        left: the processes that SIGKILL did not end.
        listed: the pids that the driver still lists.
        problem: why the driver could not be asked; None where it answered.
        seconds: the time that it took, in seconds.
    """

    ended: tuple[EndedProcess, ...]
    left: tuple[EndedProcess, ...]
    listed: tuple[int, ...]
    problem: str | None
    seconds: float

    @property
    def verified(self) -> bool:
        """Whether all processes are gone, as far as this can be known."""
        return not self.left and not self.listed

    @property
    def text(self) -> str:
        """A line that says what ended, and how that is known."""
        if not self.ended and not self.left:
            return "The process had already ended."
        ended = _listed_names(self.ended)
        if self.left:
            stuck = _listed_names(self.left)
            return f"SIGKILL did not end {stuck}: stuck in the kernel until the next reboot. Ended: {ended or 'none'}."
        if self.listed:
            pids = ", ".join(map(str, self.listed))
            return f"{ended} ended, but the driver still lists pid {pids}. See vllm-magic gpu."
        proof = (
            f"the GPUs could not be asked: {self.problem}"
            if self.problem
            else "the driver lists none of them"
        )
        return f"Ended in {self.seconds:.1f} s: {ended}; {proof}."


def find_candidate(pid: int, entries: Sequence[Entry]) -> ProcessTree:
    """Return the process of this pid with its descendants, if it is this user's vLLM process and nobody owns it.

    Raises:
        InvalidOption: the process may not be ended; the message says why.
    """
    table = processes.table()
    process = table.get(pid)
    if process is None or not process.alive:
        raise InvalidOption(f"There is no process {pid}. See vllm-magic doctor.")
    _refuse_relatives(table, pid)
    _refuse_ours(pid, entries)
    if unowned.role(process) is None:
        raise InvalidOption(f"{_described(process)} is not a vLLM process, and is left alone.")
    uid = details.uid(pid)
    if uid != os.getuid():
        raise InvalidOption(
            f"{_described(process)} belongs to {details.user(uid)}. Only that user can reap it."
        )
    tree = next(tree for tree in unowned.trees(table) if pid in tree.pids)
    _refuse_owned(tree, table, process)
    below = processes.descendants(table, pid)
    return ProcessTree(
        (process, *(table[descendant] for descendant in sorted(below) if table[descendant].alive))
    )


def find_candidates(pids: Iterable[int]) -> list[ProcessTree]:
    """Return the candidates for these pids, as `find_candidate` does.

    Raises:
        InvalidOption: one of the processes may not be ended; the message says why.
        OSError: the ledger cannot be read, so that our own servers are not known.
        ForeignProcError: /proc is of another PID namespace.
    """
    machine.check_proc()
    entries = ledger.entries()
    return [find_candidate(pid, entries) for pid in dict.fromkeys(pids)]


def view(candidates: Sequence[ProcessTree], snapshot: Snapshot) -> View:
    """Return the processes as trees, with the GPU memory that each holds."""
    held = {process.pid: process.used for gpu in snapshot.gpus for process in gpu.processes or ()}
    rows = []
    for candidate in candidates:
        depth = {candidate.root.parent: -1}
        # A child with a smaller pid than its parent is shown at the first level.
        for process in candidate.processes:
            pid = process.identity.pid
            depth[pid] = depth.get(process.parent, 0) + 1
            branch = f"\N{BOX DRAWINGS LIGHT UP AND RIGHT}{'─' * 2 * (depth[pid] - 1)} " if depth[pid] else ""
            name = branch + unowned.display_name(process)[:60]
            vram = gib(held[pid]) if pid in held else "" if snapshot.gpus else "?"
            user = details.user(details.uid(pid))
            rows.append((str(pid), name, user, durations.short_text(details.age(process.identity)), vram))
    return View("", ("pid", "process", "user", "age", "VRAM"), tuple(rows))


def reap(candidate: ProcessTree, probe: Probe, grace: float = GRACE, patience: float = PATIENCE) -> Reaped:
    """End the process and its descendants; return when they are gone and the driver does not list them any more.

    Args:
        candidate: the processes, from `find_candidate`.
        probe: the probe that asks the driver.
        grace: the seconds from SIGTERM to SIGKILL.
        patience: the same seconds where SIGTERM shows no effect at all.
    """
    began = time.monotonic()
    find = _finder(candidate)
    segments: set[shared_memory.Segment] = set()

    def before_signal(members: Members) -> None:
        segments.update(
            shared_memory.mapped_by(process.identity.pid for process in members if process.state != "D")
        )

    ladder = Ladder(find, candidate.root.identity, before_signal, whole_groups=False)
    outcome = ladder.run(grace, patience)
    shared_memory.unlink_unmapped(segments, before=())
    ended = tuple(EndedProcess(*row) for row in outcome.ended)
    listed, problem = _still_listed(probe, {process.pid for process in ended})
    left = tuple(EndedProcess(*row) for row in outcome.left)
    return Reaped(ended, left, listed, problem, time.monotonic() - began)


def confirmation_hint(pids: Iterable[int], command: Callable[[str], str] = str) -> str:
    """Return a line with the command that would end the processes; ``command`` as for `text.lines`."""
    named = " ".join(f"--pid {pid}" for pid in dict.fromkeys(pids))
    return f"Nothing was ended. To end these processes: {command(f'vllm-magic reap {named} --yes')}"


def _refuse_relatives(table: Table, pid: int) -> None:
    if pid == processes.INIT:
        raise InvalidOption("Process 1 is the system's first process, and is left alone.")
    if pid == os.getpid() or os.getpid() in processes.descendants(table, pid):
        raise InvalidOption(f"Process {pid} is this program or one of its ancestors, and is left alone.")


def _refuse_ours(pid: int, entries: Iterable[Entry]) -> None:
    for entry in entries:
        if entry.record is None or pid not in {process.identity.pid for process in entry.processes}:
            continue
        name = entry.record.name
        if entry.condition in (Condition.ORPHANED, Condition.HUNG):
            raise InvalidOption(f"Process {pid} is left from the server {name}: vllm-magic reap releases it.")
        raise InvalidOption(f"Process {pid} belongs to the server {name}: use vllm-magic stop {name}.")


def _refuse_owned(tree: unowned.Tree, table: Table, process: Process) -> None:
    described = _described(process)
    if tree.owner is Owner.ITSELF and process != tree.root:
        raise InvalidOption(
            f"{described} belongs to {_described(tree.root)}, which still runs. End that process instead."
        )
    above = unowned.starter(table, tree.root)
    if above is not None:
        raise InvalidOption(
            f"{described} was started by {_described(above)}, which still runs. End it from there."
        )
    if tree.root.parent not in table:
        raise InvalidOption(
            f"{described} was started by a process that cannot be seen from here. End it from there."
        )
    if tree.role is Role.CACHE:
        pid = process.identity.pid
        raise InvalidOption(
            f"{described} keeps weights for the next engines, and needs no owner. To end it anyway: kill {pid}"
        )
    # A server that was started by nohup, setsid or a service is below init too, and may have an owner.
    if tree.role is Role.SERVER:
        pid = process.identity.pid
        raise InvalidOption(
            f"pid {pid} is a running vLLM server, which may still be in use. To end it anyway: kill {pid}"
        )


def _listed_names(ended: Iterable[EndedProcess]) -> str:
    return ", ".join(f"{process.name[:60]} (pid {process.pid})" for process in ended)


def _described(process: Process) -> str:
    return f"{unowned.display_name(process)[:60]} (pid {process.identity.pid})"


def _finder(candidate: ProcessTree) -> Callable[[], list[Process]]:
    """Return a function that finds the living processes and new descendants; a descendant stays known without its parent."""
    known: set[Identity] = {process.identity for process in candidate.processes}

    def find() -> list[Process]:
        table = processes.table()
        pids = {
            identity.pid
            for identity in known
            if identity.pid in table and table[identity.pid].identity == identity
        }
        pids |= processes.descendants(table, *pids)
        known.update(table[pid].identity for pid in pids)
        return [table[pid] for pid in pids if table[pid].alive]

    return find


def _still_listed(probe: Probe, pids: set[int]) -> tuple[tuple[int, ...], str | None]:
    """Return the pids that the driver still lists, and why the driver could not be asked; None if it has answered."""
    deadline = time.monotonic() + LISTED_LIMIT
    pause = threading.Event()
    while True:
        now = probe.snapshot()
        listed = {process.pid for gpu in now.gpus for process in gpu.processes or ()} & pids
        if not listed or time.monotonic() >= deadline:
            return tuple(sorted(listed)), now.problem
        pause.wait(POLL_INTERVAL)
