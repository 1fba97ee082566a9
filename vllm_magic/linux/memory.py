"""How much memory of the machine, or of the container, can still be taken."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple


class _Version(NamedTuple):
    """Where one version of control groups tells it: the line in /proc/PID/cgroup, the mount, the names of the files."""

    line: str
    mount: str
    limit: str
    used: str
    cache: str  # in memory.stat: what is given up first


_V2 = _Version("0::", "", "memory.max", "memory.current", "inactive_file")
_V1 = _Version(":memory:", "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available(root: str = "/") -> int | None:
    """Bytes that this process and its children can take before somebody has to be killed; None where that is not told.

    The least of what the machine has (MemAvailable, proc(5)) and of what each control group above leaves below its
    limit (cgroups(7)): in a container that is less.

    Args:
        root: where /proc and /sys are.
    """
    machine = _field(os.path.join(root, "proc/meminfo"), "MemAvailable:") * 1024
    return min(
        [*([machine] if machine else []), *_below_limits(root, _V2), *_below_limits(root, _V1)], default=None
    )


def used_by(pid: int) -> int:
    """Bytes of memory that would come back with this process (Pss, proc(5)); 0 where it is gone."""
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
