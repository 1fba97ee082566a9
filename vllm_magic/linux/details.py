"""What a person wants to know of a process besides its identity: whose it is, how old, which program and words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.linux import lookups
from vllm_magic.linux.processes import shown_name

if TYPE_CHECKING:
    from vllm_magic.linux.processes import Identity, Process

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def uid(pid: int) -> int | None:
    """The real user id; None when the process is gone or hidden.

    Not the owner of ``/proc/PID``: that is root for a process which may not be dumped (proc(5)).
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Uid:"))
    except (OSError, StopIteration):
        return None


def user(number: int | None) -> str:
    """The name of a user id; the number itself where it has none (a container) or is not found in time, "?" for None."""
    if number is None:
        return "?"
    try:
        return lookups.user(number).pw_name
    except (KeyError, OSError):
        return str(number)


def age(identity: Identity) -> float:
    """Seconds since the process was started; 0.0 where /proc does not tell."""
    try:
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime - identity.start / TICKS)


def resident(pid: int) -> int | None:
    """Bytes of the machine's memory that it has in use (its resident set size); None if gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return None


def arguments(pid: int) -> list[str]:
    """The words it was executed with; a title that it gave itself is one word. Empty if gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words if word]


def program(pid: int) -> str | None:
    """The file that it executes; None where that may not be seen (another user's, a zombie)."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def short_title(process: Process) -> str:
    """Its command line, the program without its folder: that would take all the room there is."""
    first, blank, rest = shown_name(process).partition(" ")
    return first.rpartition("/")[2] + blank + rest
