"""Shared memory in /dev/shm: what a server's processes made, and removing it when nobody maps it any more.

The kernel does not tell who made a file. So a file is a server's only where all of this holds: a process of the server
has it open or mapped for writing (models and data that others put there are read); it is younger than the server; it
belongs to the server's user; and it has one of the `NAMES`. Other programs use the same names, so a file is known by
device and inode, not by its name. (Nor would that do: glibc makes a semaphore under a temporary name and links it to its
own, so that /proc/PID/maps shows the first one, as deleted.)
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import processes
from vllm_magic.linux.processes import folders, open_files

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = "/dev/shm"  # noqa: S108 - the kernel's own place, not a choice of ours
NAMES = (
    "psm_*",  # multiprocessing.shared_memory: vLLM's message queues
    "sem.mp-*",  # multiprocessing's locks
    "vllm_*",  # vllm_dist_* of tensor parallelism on CPUs, vllm_offload_*, vllm_engram_*
    "VLLM_OBJECT_STORAGE_SHM_BUFFER*",  # vLLM's cache of pictures (multimodal/cache/shm.py)
    "torch_*",  # tensors that torch shares
    "nccl-*",
    "nvshmem*",
    "cuda.shm.*",
    "ucx_shm_*",
    "__KMP_REGISTERED_LIB_*",  # LLVM's OpenMP
)
_F_SETSIG = 10  # include/uapi/asm-generic/fcntl.h; the module fcntl has it in most builds only


class Segment(NamedTuple):
    """A file in /dev/shm, whatever its name."""

    device: int
    inode: int


def mapped_by(pids: Iterable[int]) -> set[Segment]:
    """The segments which these processes map or hold open for writing; unreadable and ended processes give none."""
    return {
        segment
        for pid in pids
        for segment in (_mapped(pid, writable=True) or set()) | _opened(pid, writable=True)
    }


def present(segments: Iterable[Segment]) -> set[Segment]:
    """Those of the segments that are there still."""
    wanted = set(segments)
    return wanted & {segment for segment, _ in _entries()} if wanted else set()


def unlink_unmapped(segments: Iterable[Segment], since: float) -> list[str]:
    """Remove those of the segments that can be the server's and that no process maps any more; returns the paths removed.

    Args:
        segments: what a server had mapped for writing.
        since: when the server began, in seconds since the epoch. What is older it has not made: people keep models
            there, and a server maps those too.

    The kernel is asked first (`_is_free`), and only where it does not say so the maps of all processes are read. Those
    of other users' processes cannot be: such a process can map a segment only if the segment's mode lets others in, and
    then it stays.
    """
    wanted = set(segments)
    if not wanted:
        return []
    found = {
        segment: entry for segment, entry in _entries() if segment in wanted and _may_be_made(entry, since)
    }
    free = {segment: entry for segment, entry in found.items() if _is_free(entry.path)}
    others = {segment: entry for segment, entry in found.items() if segment not in free}
    blind = _drop_mapped(others)
    removed = [entry.path for entry in free.values() if _unlink(entry, private_only=False)]
    removed += [entry.path for entry in others.values() if _unlink(entry, private_only=blind)]
    return sorted(removed)


def _may_be_made(entry: os.DirEntry[str], since: float) -> bool:
    """Whether a server of this user that began at ``since`` can have made it."""
    stat = _stat(entry.path)
    named = any(fnmatch.fnmatchcase(entry.name, name) for name in NAMES)
    return stat is not None and named and stat.st_uid == os.geteuid() and stat.st_mtime >= since


def _is_free(path: str) -> bool:
    """Whether the kernel says that no process of the machine maps it or has it open; False where it does not say.

    It gives a write lease (fcntl(2), F_SETLEASE) only on a file that nobody else has open, and a map counts as that.
    Leases are for the owner of the file, and not on every file system. One is refused as well while somebody else asks
    this, or reads in /proc of a process that maps the file and has ended just now.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Who opens it in this instant waits a moment, and has this signal sent here: it is ignored by default.
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)  # a forked copy of the descriptor would keep it
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _drop_mapped(found: dict[Segment, os.DirEntry[str]]) -> bool:
    """Take out the segments that some process maps or has open; whether the maps of one could not be read."""
    blind = False
    for pid in processes.pids() if found else ():
        mapped = _mapped(pid)
        blind = blind or mapped is None
        for segment in (mapped or set()) | _opened(pid):
            found.pop(segment, None)
    return blind


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


def _mapped(pid: int, *, writable: bool = False) -> set[Segment] | None:
    """The segments that the process maps, or those that it can write to so; None where this may not be read."""
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
            return {
                Segment(_device(row[3]), int(row[4]))
                for row in rows
                if not writable or (row[1][1:2] == b"w" and row[1][3:4] == b"s")
            }
    return set()


def _device(text: bytes) -> int:
    major, _, minor = text.partition(b":")
    return os.makedev(int(major, 16), int(minor, 16))


def _opened(pid: int, *, writable: bool = False) -> set[Segment]:
    found = set()
    for link, path in open_files(pid).items():
        stat = _stat(link) if path.startswith(f"{FOLDER}/") else None
        if stat and (not writable or _is_for_writing(link)):
            found.add(Segment(stat.st_dev, stat.st_ino))
    return found


def _is_for_writing(link: str) -> bool:
    """Whether the descriptor is: the link's own mode tells (proc_pid_fd(5))."""
    try:
        return bool(os.lstat(link).st_mode & 0o200)
    except OSError:
        return False


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
