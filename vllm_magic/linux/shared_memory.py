"""Shared memory in /dev/shm: what a server's processes map, and removing it when nobody else does.

vLLM leaves ``psm_*``, ``sem.mp-*`` and ``vllm_dist_*`` there when it is killed. Other programs use the same
names, so a segment is known by device and inode only, never by its name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux.processes import open_files

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = "/dev/shm/"  # noqa: S108 - the kernel's own place, not a choice of ours


class Segment(NamedTuple):
    """A file in /dev/shm."""

    device: int
    inode: int
    path: str


def mapped_by(pids: Iterable[int]) -> set[Segment]:
    """The segments which these processes map or hold open; unreadable and ended processes give none."""
    paths = {path for pid in pids for path in (_mapped(pid) or set()) | open_files(pid)}
    segments = (_segment(path) for path in paths if path.startswith(FOLDER))
    return {segment for segment in segments if segment}


def unlink_unmapped(segments: Iterable[Segment]) -> list[str]:
    """Remove the segments that no process maps any more; returns the paths removed.

    The maps of other users' processes cannot be read. Such a process can map a segment only if the segment's
    mode lets others in: then it stays.
    """
    waiting = {segment for segment in segments if _segment(segment.path) == segment}
    blind = False
    for pid in _pids() if waiting else ():
        mapped = _mapped(pid)
        blind = blind or mapped is None
        in_use = (mapped or set()) | open_files(pid)
        waiting = {segment for segment in waiting if segment.path not in in_use}
    return sorted(segment.path for segment in waiting if _unlink(segment, private_only=blind))


def _unlink(segment: Segment, *, private_only: bool) -> bool:
    try:
        if private_only and os.stat(segment.path).st_mode & 0o077:
            return False
        os.unlink(segment.path)
    except OSError:
        return False
    return True


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _segment(path: str) -> Segment | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return Segment(stat.st_dev, stat.st_ino, path)


def _mapped(pid: int) -> set[str] | None:
    """The paths in /dev/shm that the process maps; None where this may not be read."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = [line for line in file if b" /dev/shm/" in line]
    except PermissionError:
        return None
    except OSError:
        return set()
    return {line.split(None, 5)[5].rstrip(b"\n").decode("utf-8", "replace") for line in lines}
