"""Shared memory in /dev/shm: find the files of a server, and remove them when no process maps them any more.

The kernel does not record which process made a file. So a file counts as a server's only if all of this is true: a process
of the server has it open or mapped for writing (a server only reads models and data of others); it did not exist before the
server (`existing`; file times are no proof, since the clock may be set while the server runs); it belongs to the server's
user; and its name is one of `NAMES`.
Other programs use these names too, so a file is identified by device and inode. (A name would not be enough
anyway: glibc makes a semaphore under a temporary name and then links it to its own name, so /proc/PID/maps
shows the temporary name, as deleted.)
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import address_space, processes, shortage
from vllm_magic.linux.processes import folders, open_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FOLDER = "/dev/shm"  # noqa: S108 - the kernel's own place, not our choice
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
MOST_EXISTING = 40_000  # files; those in sub-folders beyond that are not noted
# If the maps of a process cannot be read: seconds for the kernel to confirm that files are free, and seconds between two checks.
FREE_LIMIT = 1.0
FREE_INTERVAL = 0.01
_F_SETSIG = 10  # include/uapi/asm-generic/fcntl.h; the module fcntl has it in most builds only


class Segment(NamedTuple):
    """A file in /dev/shm, identified by device and inode."""

    device: int
    inode: int


def mapped_by(pids: Iterable[int]) -> set[Segment]:
    """Return the segments that these processes map or have open for writing, as far as this user can see them."""
    found: set[Segment] = set()
    for pid in pids:
        with contextlib.suppress(TimeoutError):
            found |= _mapped(pid, writable=True) or set()
        found |= _opened(pid, writable=True)
    return found


def present(segments: Iterable[Segment]) -> set[Segment]:
    """Return the segments that still exist."""
    wanted = set(segments)
    return wanted & {segment for segment, _ in _entries()} if wanted else set()


def existing() -> set[Segment]:
    """Return the files that exist now. Before a server starts, this shows which files are not the server's.

    Files in sub-folders count too, since they can be moved later, up to `MOST_EXISTING` files in all. A number of an inode
    is never used again: tmpfs counts upwards (mm/shmem.c).

    Raises:
        OSError: the folder cannot be read.
    """
    found: set[Segment] = set()
    todo = [FOLDER]
    for folder in todo:
        try:
            device = os.stat(folder).st_dev
            with os.scandir(folder) as entries:
                for entry in entries:
                    if folder != FOLDER and len(found) >= MOST_EXISTING:
                        return found
                    found.add(Segment(device, entry.inode()))
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            if folder == FOLDER:
                raise
    return found


def unlink_unmapped(segments: Iterable[Segment], before: Collection[Segment] | None) -> list[str]:
    """Remove the server's possible segments that no process maps any more. Return the paths removed.

    Args:
        segments: the segments that a server had mapped for writing.
        before: the result of `existing` before the server began; None if it is not known, and then nothing is removed.
            A server also maps models that people keep in /dev/shm.

    The kernel is asked first (`_is_free`). The maps of all processes are read only for the segments that the
    kernel does not confirm to be free. The maps of another user's process cannot be read. Such a process can map
    a segment only if the segment's mode gives other users access, so a segment with such a mode is then not
    removed. If the address space of a process is locked, this waits until the kernel confirms that they are free.
    """
    wanted = set() if before is None else {segment for segment in segments if segment not in before}
    if not wanted:
        return []
    found = {segment: entry for segment, entry in _entries() if segment in wanted and _may_be_made(entry)}
    free = {segment: entry for segment, entry in found.items() if _is_free(entry.path)}
    others = {segment: entry for segment, entry in found.items() if segment not in free}
    blind = _drop_mapped(others)
    removed = [entry.path for entry in free.values() if _unlink(entry, private_only=False)]
    removed += [entry.path for entry in others.values() if _unlink(entry, private_only=blind)]
    return sorted(removed)


def left(segments: Iterable[Segment], before: Collection[Segment] | None) -> list[str]:
    """Return the paths of the server's possible segments that are still there. Arguments as for `unlink_unmapped`.

    Raises:
        OSError: the folder cannot be read.
    """
    wanted = set() if before is None else {segment for segment in segments if segment not in before}
    if not wanted:
        return []
    return sorted(entry.path for segment, entry in _entries() if segment in wanted and _may_be_made(entry))


def _may_be_made(entry: os.DirEntry[str]) -> bool:
    """Whether a server of this user can have made the file, by its owner and its name."""
    stat = _stat(entry.path)
    named = any(fnmatch.fnmatchcase(entry.name, name) for name in NAMES)
    return stat is not None and named and stat.st_uid == os.geteuid()


def _is_free(path: str) -> bool:
    """Whether the kernel confirms that no process of the machine maps the file or has it open.

    The kernel grants a write lease (fcntl(2), F_SETLEASE) only on a file that no other process has open or
    mapped. Only the file's owner gets a lease, and not on every file system. A lease is also refused while
    another process makes this same check, or reads /proc of a process that maps the file and has just ended.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # A process that opens the file now waits a moment, and this process gets SIGURG, ignored by default.
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)  # a forked copy of fd would keep the lease
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _drop_mapped(found: dict[Segment, os.DirEntry[str]]) -> bool:
    """Drop the segments from ``found`` that a process maps or has open. Return whether any maps could not be read."""
    # Without the first process, /proc hides the processes of other users (hidepid, proc(5)).
    blind = processes.read(processes.INIT) is None
    locked = False
    for pid in processes.pids() if found else ():
        try:
            mapped = _mapped(pid)
        except TimeoutError:  # it may map any of them
            mapped, locked = set(), True
        blind = blind or mapped is None
        for segment in (mapped or set()) | _opened(pid):
            found.pop(segment, None)
    if locked:
        _drop_all_but_free(found)
    return blind


def _drop_all_but_free(found: dict[Segment, os.DirEntry[str]]) -> None:
    """Drop the segments that the kernel does not confirm to be free within `FREE_LIMIT` seconds."""
    deadline, unknown = time.monotonic() + FREE_LIMIT, dict(found)
    while unknown := {segment: entry for segment, entry in unknown.items() if not _is_free(entry.path)}:
        if time.monotonic() > deadline:
            break
        time.sleep(FREE_INTERVAL)  # no event shows that a file becomes free
    for segment in unknown:
        del found[segment]


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
    """Return the segments that the process maps (``writable``: shared for writing); None if this user may not see them.

    Raises:
        TimeoutError: the address space of the process is locked.
    """
    for folder in folders(pid):
        try:
            lines = address_space.read(pid, f"{folder}/maps").splitlines()
        except TimeoutError:
            raise
        except PermissionError:
            return None
        except OSError as error:
            shortage.check(error)
            continue
        if lines:
            # address, permissions, offset, device (hexadecimal major:minor), inode, path (proc_pid_maps(5))
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
    """Whether the descriptor is open for writing: the mode of the link itself shows this (proc_pid_fd(5))."""
    try:
        return bool(os.lstat(link).st_mode & 0o200)
    except OSError:
        return False


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
