"""End the watched commands (`children.watchdog`) that outlive their kernel: their watchdog was killed too, or is stopped.

The mark of a command names its kernel. Only processes of this user that carry the mark as proof (`linux.marks`) are ended,
with their descendants.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.children import command_mark
from vllm_magic.linux import details, machine, marks, pidfd, processes
from vllm_magic.release.result import EndedProcess

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.linux.processes import Process

WATCHDOG_LIMIT = 1.0  # seconds for a watchdog to end its command after the end of the kernel
LONGEST_NAME = 60  # characters of the name of a process


@dataclass(frozen=True)
class OrphanedCommand:
    """A command that outlives its kernel.

    Attributes:
        mark: its mark.
        kernel: the pid of the kernel that ran it.
        processes: its living processes.
    """

    mark: bytes
    kernel: int
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class EndedCommand:
    """The result of ending an orphaned command: its processes that have ended, and those that SIGKILL did not end."""

    kernel: int
    ended: tuple[EndedProcess, ...]
    left: tuple[EndedProcess, ...]

    @property
    def verified(self) -> bool:
        """Whether no process of the command is left."""
        return not self.left

    @property
    def text(self) -> str:
        """What happened, in one line."""
        which = f"A command of a kernel that died (pid {self.kernel})"
        if self.left:
            return f"{which} still runs: SIGKILL does not end {_listed(self.left)}."
        return f"{which} was still running, and is ended: {_listed(self.ended)}."


def find() -> list[OrphanedCommand]:
    """Return the commands that outlive their kernel; [] if /proc shows another PID namespace.

    If a kernel has just ended, this waits up to `WATCHDOG_LIMIT` seconds until the watchdog has ended the command.
    """
    if machine.proc_problem():
        return []
    orphaned = _find()
    pidfd.wait_for_all(
        [process.identity for command in orphaned for process in command.processes], WATCHDOG_LIMIT
    )
    return _find() if orphaned else []


def end() -> list[EndedCommand]:
    """End the commands that outlive their kernel, with SIGKILL."""
    return [ended for command in find() if (ended := _end(command)).ended or ended.left]


def _find() -> list[OrphanedCommand]:
    user = os.getuid()
    identifiers = {
        identifier
        for pid in processes.pids()
        if (identifier := marks.identifier_of(pid, marks.COMMAND_MARK))
        and details.uid(pid) == user
        and machine.shares_namespaces(pid)
    }
    found = []
    for identifier in sorted(identifiers):
        named, mark = command_mark.parse(identifier), command_mark.entry(identifier)
        if named and named.is_kernel_gone and (members := marks.members(mark, None)):
            found.append(OrphanedCommand(mark, named.pid, tuple(members)))
    return found


def _end(command: OrphanedCommand) -> EndedCommand:
    outcome = command_mark.kill(command.mark)
    ended, left = (tuple(EndedProcess(*row) for row in rows) for rows in (outcome.ended, outcome.left))
    return EndedCommand(command.kernel, ended, left)


def listed(names: Iterable[tuple[str, int]]) -> str:
    """Return the names of processes, each with its pid, in one line."""
    return ", ".join(f"{' '.join(name.split())[:LONGEST_NAME]} (pid {pid})" for name, pid in names)


def _listed(ended: Iterable[EndedProcess]) -> str:
    return listed((process.name, process.pid) for process in ended)
