"""The mark of a watched command and of all processes below it (`linux.marks`). It names the kernel that runs the command."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.guard.ladder import Ladder
from vllm_magic.linux import machine, marks, processes
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from vllm_magic.guard.ladder import Outcome

_PID_BITS = 22  # Linux gives no larger pids (PID_MAX_LIMIT, include/linux/threads.h)
# The lowest bits of a start time. Another process with the kernel's pid has them by chance once in a million times; the
# processes of the command then stay.
_START_BITS = 20
_NUMBER_BITS = 10
UNKNOWN_START = 0

_numbers = itertools.count()


class CommandMark(NamedTuple):
    """What the mark of a command says.

    Attributes:
        number: distinguishes the commands of a kernel that run at the same time.
        start: the lowest bits of the kernel's start time; `UNKNOWN_START` if /proc did not show the kernel.
        pid: the kernel's pid.
    """

    number: int
    start: int
    pid: int

    @property
    def identifier(self) -> str:
        """The mark as hexadecimal digits, for the environment."""
        value = (self.number << _START_BITS | self.start) << _PID_BITS | self.pid
        return f"{value:0{(_NUMBER_BITS + _START_BITS + _PID_BITS) // 4}x}"

    @property
    def is_kernel_gone(self) -> bool:
        """Whether it is certain that the kernel has ended. This process must be in the kernel's PID namespace."""
        if self.start == UNKNOWN_START:
            return False
        now = processes.read(self.pid)
        if now is None:
            return processes.hidden(self.pid) is None
        return not now.alive or _lowest(now.identity.start, _START_BITS) != self.start


def new() -> CommandMark:
    """Return the mark of a new command of this process."""
    # With a foreign /proc, the start time is that of another process.
    me = Identity(os.getpid(), UNKNOWN_START) if machine.proc_problem() else processes.own_identity()
    return CommandMark(
        _lowest(next(_numbers), _NUMBER_BITS), _lowest(me.start, _START_BITS), _lowest(me.pid, _PID_BITS)
    )


def parse(identifier: str) -> CommandMark | None:
    """Return the mark with this identifier; None if it is not one of this package."""
    try:
        value = int(identifier, 16)
    except ValueError:
        return None
    rest = value >> _PID_BITS
    number = _lowest(rest >> _START_BITS, _NUMBER_BITS)
    mark = CommandMark(number, _lowest(rest, _START_BITS), _lowest(value, _PID_BITS))
    return mark if mark.identifier == identifier else None


def entry(identifier: str) -> bytes:
    """Return the entry of the environment."""
    return f"{marks.COMMAND_MARK}={identifier}".encode()


def kill(mark: bytes) -> Outcome:
    """End all processes with this mark, and their descendants, with SIGKILL."""
    ladder = Ladder(lambda: marks.members(mark, None), leader=None, whole_groups=False)
    return ladder.run(grace=0.0, patience=0.0)


def _lowest(number: int, bits: int) -> int:
    return number & ((1 << bits) - 1)
