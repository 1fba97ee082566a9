"""What a process uses of the machine, from /proc (proc_pid_stat(5), proc_pid_smaps(5))."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Seen = TypeVar("_Seen")
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(*pids: int) -> float:
    """User and system time of these processes, all their threads together."""
    return sum((int(fields[11]) + int(fields[12])) / TICKS for fields in map(_fields, pids))


def threads(pid: int) -> int:
    """How many threads it has."""
    return int(_fields(pid)[17])


def share(pids: tuple[int, ...], watch: Callable[[], _Seen]) -> tuple[float, _Seen]:
    """The share of a core that these processes take while they are watched, and what that returns."""
    before, began = cpu_seconds(*pids), time.monotonic()
    seen = watch()
    return (cpu_seconds(*pids) - before) / (time.monotonic() - began), seen


def _fields(pid: int) -> list[str]:
    """Those behind the name, the first one the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
