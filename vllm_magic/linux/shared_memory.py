"""Shared memory in /dev/shm: what a server's processes map, and removing it when nobody else does.

vLLM leaves ``psm_*``, ``sem.mp-*`` and ``vllm_dist_*`` there when it is killed. Other programs use the same
names, so a segment is known by device and inode only. (Nor would a path do: glibc makes a semaphore under a
temporary name and links it to its own, so that /proc/PID/maps shows the first one, as deleted.)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux.processes import folders, open_files

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = "/dev/shm"  # noqa: S108 - the kernel's own place, not a choice of ours


class Segment(NamedTuple):
    """A file in /dev/shm, whatever its name."""

    device: int
    inode: int


def mapped_by(pids: Iterable[int]) -> set[Segment]:
    """The segments which these processes map or hold open; unreadable and ended processes give none."""
    return {segment for pid in pids for segment in (_mapped(pid) or set()) | _opened(pid)}


def present(segments: Iterable[Segment]) -> set[Segment]:
    """Those of the segments that are there still."""
    wanted = set(segments)
    return wanted & {segment for segment, _ in _entries()} if wanted else set()


def unlink_unmapped(segments: Iterable[Segment], since: float) -> list[str]:
    """Remove the segments that no process maps any more; returns the paths removed.

    Args:
        segments: what a server had mapped.
        since: when the server began, in seconds since the epoch. What is older it has not made: people keep models
            there, and a server maps those too.

    The maps of other users' processes cannot be read. Such a process can map a segment only if the segment's
    mode lets others in: then it stays.
    """
    wanted = set(segments)
    if not wanted:
        return []
    found = {
        segment: entry
        for segment, entry in _entries()
        if segment in wanted and (stat := _stat(entry.path)) and stat.st_mtime >= since
    }
    blind = False
    for pid in _pids() if found else ():
        mapped = _mapped(pid)
        blind = blind or mapped is None
        for segment in (mapped or set()) | _opened(pid):
            found.pop(segment, None)
    return sorted(entry.path for entry in found.values() if _unlink(entry, private_only=blind))


def _entries() -> list[tuple[Segment, os.DirEntry[str]]]:
    with os.scandir(FOLDER) as entries:
        return [
            (Segment(stat.st_dev, stat.st_ino), entry)
            for entry in entries
            if not entry.is_symlink() and (stat := _stat(entry.path))
        ]


def _unlink(entry: os.DirEntry[str], *, private_only: bool) -> bool:
    try:
        if private_only and entry.stat(follow_symlinks=False).st_mode & 0o077:
            return False
        os.unlink(entry.path)
    except OSError:
        return False
    return True


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _mapped(pid: int) -> set[Segment] | None:
    """The segments that the process maps; None where this may not be read."""
    for folder in folders(pid):
        try:
            with open(f"{folder}/maps", "rb") as file:
                lines = file.readlines()
        except PermissionError:
            return None
        except OSError:
            continue
        if lines:
            # address, permissions, offset, device as major:minor in hexadecimal, inode, path (proc_pid_maps(5))
            rows = [line.split(None, 5) for line in lines if b" /dev/shm/" in line]
            return {Segment(_device(row[3]), int(row[4])) for row in rows}
    return set()


def _device(text: bytes) -> int:
    major, _, minor = text.partition(b":")
    return os.makedev(int(major, 16), int(minor, 16))


def _opened(pid: int) -> set[Segment]:
    found = set()
    for link, path in open_files(pid).items():
        stat = _stat(link) if path.startswith(f"{FOLDER}/") else None
        if stat:
            found.add(Segment(stat.st_dev, stat.st_ino))
    return found


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
