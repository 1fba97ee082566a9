"""The memory that is still available on the machine, or in the container."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from vllm_magic.linux import address_space, control_groups


class _Version(NamedTuple):
    """The places where a version of control groups reports memory."""

    line: str  # a part of the line in /proc/PID/cgroup
    mount: str  # below /sys/fs/cgroup
    limit: str  # the name of a file
    used: str  # the name of a file
    cache: str  # the field of memory.stat with the memory that the kernel frees first
    events: str  # the name of the file with the field oom_kill


_V2 = _Version("0::", "", "memory.max", "memory.current", "inactive_file", "memory.events")
_V1 = _Version(
    ":memory:",
    "/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
    "memory.oom_control",
)
_UNLIMITED = 2**60  # bytes; cgroups(7), version 1, writes a number of this size where there is no limit


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
    """Return the bytes of memory that the end of this process would free (Pss, proc(5)); 0 if it cannot be read."""
    try:
        text = address_space.read(pid, f"/proc/{pid}/smaps_rollup")
    except OSError:
        return 0
    return _number(text.decode("ascii", "replace"), "Pss:") * 1024


def limit(root: str = "/") -> int | None:
    """Return the bytes of memory that the control groups of this process may use; None if there is no limit.

    Args:
        root: the folder that contains /proc and /sys.
    """
    limits = []
    for version in (_V2, _V1):
        for folder in control_groups.folders(root, version.line, version.mount):
            with contextlib.suppress(ValueError):  # "max", or no such file
                limits.append(int(control_groups.read(f"{folder}/{version.limit}")))
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def oom_kills(root: str = "/") -> int:
    """Return how many processes the kernel has killed for memory, in the control groups of this process or anywhere.

    The number grows when a process is killed (memory.events, cgroups(7); /proc/vmstat, proc(5)); it says nothing else.

    Args:
        root: the folder that contains /proc and /sys.
    """
    folders = [
        (folder, version)
        for version in (_V2, _V1)
        for folder in control_groups.folders(root, version.line, version.mount)
    ]
    counts = [_field(f"{folder}/{version.events}", "oom_kill") for folder, version in folders]
    return sum(counts) + _field(os.path.join(root, "proc/vmstat"), "oom_kill")


def _below_limits(root: str, version: _Version) -> list[int]:
    rests = []
    for folder in control_groups.folders(root, version.line, version.mount):
        with contextlib.suppress(ValueError):  # "max", or no such file
            most, used = (
                int(control_groups.read(f"{folder}/{name}")) for name in (version.limit, version.used)
            )
            rests.append(max(0, most - used + _field(f"{folder}/memory.stat", version.cache)))
    return rests


def _field(path: str, name: str) -> int:
    return _number(control_groups.read(path), name)


def _number(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return 0
