"""The memory that is still available on the machine, or in the container."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple


class _Version(NamedTuple):
    """The places where a version of control groups reports memory."""

    line: str  # a part of the line in /proc/PID/cgroup
    mount: str  # below /sys/fs/cgroup
    limit: str  # the name of a file
    used: str  # the name of a file
    cache: str  # the field of memory.stat with the memory that the kernel frees first


_V2 = _Version("0::", "", "memory.max", "memory.current", "inactive_file")
_V1 = _Version(":memory:", "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available(root: str = "/") -> int | None:
    """Return the bytes that this process and its children can allocate before a process is killed; None if not known.

    This is the smallest of the machine's available memory (MemAvailable, proc(5)) and the free memory of each control group
    of this process (cgroups(7)), which a container limits.

    Args:
        root: the folder that contains /proc and /sys.
    """
    machine = _field(os.path.join(root, "proc/meminfo"), "MemAvailable:") * 1024
    return min(
        [*([machine] if machine else []), *_below_limits(root, _V2), *_below_limits(root, _V1)], default=None
    )


def used_by(pid: int) -> int:
    """Return the bytes of memory that the end of this process would free (Pss, proc(5)); 0 if the process is gone."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:") * 1024


def _below_limits(root: str, version: _Version) -> list[int]:
    lines = _read(os.path.join(root, "proc/self/cgroup")).splitlines()
    group = next((line.partition(version.line)[2] for line in lines if version.line in line), None)
    rests = []
    while group is not None:
        folder = os.path.join(root, f"sys/fs/cgroup{version.mount}{group}")
        with contextlib.suppress(ValueError):  # "max", or no such file
            limit, used = (int(_read(f"{folder}/{name}")) for name in (version.limit, version.used))
            rests.append(max(0, limit - used + _field(f"{folder}/memory.stat", version.cache)))
        group = os.path.dirname(group) if group not in ("", "/") else None
    return rests


def _field(path: str, name: str) -> int:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return 0


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read()
    return ""
