"""Details of a process for a person: its user, age, memory, program and command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.linux import address_space, lookups
from vllm_magic.linux.processes import shown_name

if TYPE_CHECKING:
    from vllm_magic.linux.processes import Identity, Process

TICKS = os.sysconf("SC_CLK_TCK")
MOST_ARGUMENTS = 2**18  # bytes of a command line; those of vLLM have some hundred


def uid(pid: int) -> int | None:
    """Return the real user id of a process; None if the process is gone or hidden.

    The owner of ``/proc/PID`` is not used: it is root for a process that may not be dumped (proc(5)).
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Uid:"))
    except (OSError, StopIteration):
        return None


def user(number: int | None) -> str:
    """Return the name of a user id; the number if it has no name or is not found in time; "?" for None."""
    if number is None:
        return "?"
    try:
        return lookups.user(number).pw_name
    except (KeyError, OSError):
        return str(number)


def age(identity: Identity) -> float:
    """Return the seconds since the process was started; 0.0 if /proc cannot be read."""
    try:
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime - identity.start / TICKS)


def arguments(pid: int) -> list[str]:
    """Return the command line of a process; a title that it has set is one argument. Empty if it cannot be read.

    Of a command line of more than `MOST_ARGUMENTS` bytes, which any user can make, only the beginning is returned.
    """
    try:
        words = address_space.read(pid, f"/proc/{pid}/cmdline", MOST_ARGUMENTS)[:MOST_ARGUMENTS].split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words if word]


def program(pid: int) -> str | None:
    """Return the path of the program that a process executes; None for a zombie, and for processes of other users."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def short_title(process: Process) -> str:
    """Return the command line of a process, with the program's name without its folder."""
    first, blank, rest = shown_name(process).partition(" ")
    return first.rpartition("/")[2] + blank + rest
