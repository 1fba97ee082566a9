"""Remove the server's private folder at the end, and keep its log."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from typing import TYPE_CHECKING

from vllm_magic.guard import log_cap, record
from vllm_magic.linux import files, shared_memory
from vllm_magic.linux.shared_memory import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

CLEAR_LIMIT = 10.0  # seconds to remove the content of the folders; a later sweep removes the rest
LONGEST_LINE = 2**16  # bytes after a cut in which the beginning of a line is searched
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOVED = ".vllm-magic-removes-"  # the beginning of the names of folders that are moved up


def clear(folder: str, tmp: str, log: str, keep_log: str) -> str:
    """Move the log to its final place, and remove the server's shared memory and the folders with all their content.

    The record is removed last, so that it names the owner of any file that is left.

    Args:
        folder: the private folder.
        tmp: the server's TMPDIR.
        log: the log.
        keep_log: the path to which the log is moved.

    Returns:
        A sentence about what could not be removed; "" if everything is gone.
    """
    with contextlib.suppress(OSError):
        _keep(log, keep_log)
    deadline = time.monotonic() + CLEAR_LIMIT
    left = _empty(tmp, deadline) or _remove_shared_memory(folder)
    left = left or _empty(folder, deadline, but=record.NAME)
    if left:
        return left
    for path, remove in ((tmp, os.rmdir), (os.path.join(folder, record.NAME), os.unlink), (folder, os.rmdir)):
        with contextlib.suppress(OSError):
            remove(path)
    return f"{folder} could not be removed" if os.path.lexists(folder) else ""


def discard(folder: str, tmp: str, log: str) -> None:
    """Remove the folders of a server that never ran. This opens no file: the start may have failed for lack of descriptors."""
    for path, remove in (
        (log, os.unlink),
        (tmp, os.rmdir),
        (os.path.join(folder, record.NAME), os.unlink),
        (folder, os.rmdir),
    ):
        with contextlib.suppress(OSError):
            remove(path)


def _remove_shared_memory(folder: str) -> str:
    """Remove the shared memory in the server's record. Return a sentence about files that another program uses; "" for none.

    As long as there are such files, the folder stays, and the next sweep tries to remove both.
    """
    try:
        segments = [Segment(*segment) for segment in record.read(folder).segments]
        existing = record.read_existing_segments(folder)
        shared_memory.unlink_unmapped(segments, existing)
        left = shared_memory.left(segments, existing)
    except (OSError, record.BrokenRecordError):
        return ""
    return f"{', '.join(left)} stays, because another program has it open" if left else ""


def _keep(log: str, kept: str) -> None:
    """Move the log. Keep only the end of a log that has a hole, since its size misleads, or that is too long."""
    with open(log, "rb", buffering=0, opener=files.open_nonblocking) as source:
        size = os.fstat(source.fileno()).st_size
        begin = max(files.first_data(source.fileno()), size - log_cap.LARGEST_LOG)
        if begin > 0:
            # If the disk has no space for the copy, the log stays as it is.
            with contextlib.suppress(OSError):
                begin += os.pread(source.fileno(), LONGEST_LINE, begin).find(b"\n") + 1
                _copy(source.fileno(), begin, size, log + ".end")
                os.replace(log + ".end", log)
    try:
        os.replace(log, kept)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open(log, "rb", buffering=0, opener=files.open_nonblocking) as source:
            _copy(source.fileno(), 0, os.fstat(source.fileno()).st_size, kept)
        os.unlink(log)


def _copy(source: int, begin: int, end: int, path: str) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while begin < end:
            sent = os.sendfile(target, source, begin, end - begin)  # takes no memory in this process
            if sent == 0:
                break
            begin += sent
    finally:
        os.close(target)


def _empty(root: str, deadline: float, but: str = "") -> str:
    """Remove the content of a folder of this user. Links are removed, and never followed.

    Content that is mounted from elsewhere stays: it belongs to another disk.

    Args:
        root: the folder; nothing is removed if it is a link, or belongs to another user.
        deadline: the time to stop, by `time.monotonic`.
        but: the name of a file in the folder that stays.

    Returns:
        A sentence about what is left; "" for nothing.
    """
    try:
        status = os.lstat(root)
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            return ""
        fd = os.open(root, _FOLDER)
        try:
            _empty_open(fd, deadline, but)
            left = sorted(set(os.listdir(fd)) - {but})
        finally:
            os.close(fd)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{root} could not be removed ({error.strerror})"
    return (
        f"{os.path.join(root, left[0])} could not be removed; something may be mounted there" if left else ""
    )


def _empty_open(root: int, deadline: float, but: str) -> None:
    """Remove the content of an open folder, as far as possible; the file with the name ``but`` stays.

    Subfolders of a folder are moved to ``root`` before the folder is removed. So two descriptors are enough for any depth.
    """
    mount, failed, numbers = _mount(root), {but}, itertools.count()
    while names := set(os.listdir(root)) - failed:
        for name in names:
            if time.monotonic() > deadline:
                return
            if not _remove(name, root) and not _empty_subfolder(name, root, mount, numbers, deadline):
                failed.add(name)


def _empty_subfolder(name: str, root: int, mount: int, numbers: Iterator[int], deadline: float) -> bool:
    """Empty and remove a folder in ``root``; return False if it stays, as a mount point does."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=root)
    except OSError:  # not a folder, or not readable
        return False
    try:
        return _mount(fd) == mount and _move_up(fd, root, numbers, deadline) and _remove(name, root)
    finally:
        os.close(fd)


def _move_up(fd: int, root: int, numbers: Iterator[int], deadline: float) -> bool:
    """Remove the files of an open folder, and move its subfolders to ``root``; return False if something is left."""
    left = False
    for name in os.listdir(fd):
        if time.monotonic() > deadline:
            return False
        if _remove(name, fd):
            continue
        try:
            os.rename(name, f"{_MOVED}{next(numbers)}", src_dir_fd=fd, dst_dir_fd=root)
        except OSError:  # EBUSY for a mount point
            left = True
    return not left


def _mount(fd: int) -> int:
    """Return the id of the mount that an open file is on (proc_pid_fdinfo(5)).

    The number of the device is not enough: a bind mount has the device of its source.
    """
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("mnt_id:"))


def _remove(name: str, folder: int) -> bool:
    """Remove a file, a link or an empty folder; return whether it is gone."""
    for remove in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            remove(name, dir_fd=folder)
            return True
    return False
