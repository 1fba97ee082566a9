"""Read files of any origin safely, cut off the beginning of a file that is being written, and detect full disks."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from vllm_magic.linux.libc import LIBC, checked

FALLOC_FL_KEEP_SIZE = 0x1  # include/uapi/linux/falloc.h
FALLOC_FL_PUNCH_HOLE = 0x2
REWRITTEN = 2**20  # bytes that are kept if the file system has no holes

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # a file system without locks, as Lustre may be


def modified(path: str | os.PathLike[str]) -> float:
    """When the file was written last, in seconds since the epoch; 0.0 where it is gone."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the path of the file, or of a link to it.
        most: the largest size, in bytes.

    Raises:
        OSError: the file cannot be read, is larger, or is not regular. A read of a pipe could wait, and a device may have
            no end.
    """
    try:
        _check_regular(os.stat(path))  # before the open, which may already have an effect on a device
        with open(path, "rb", opener=open_nonblocking) as file:
            _check_regular(os.fstat(file.fileno()))
            data = file.read(most + 1)
    except ValueError:
        raise OSError(errno.EINVAL, "this is not a valid file name") from None
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes")
    return data


def open_nonblocking(path: str, flags: int) -> int:
    """An opener for `open` that does not wait for the writer of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def is_on_full_disk(path: str | os.PathLike[str]) -> bool:
    """Whether the file system of the path has no free block, or no free file, for this user. A quota does not count."""
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    blocks, files = (
        (status.f_bfree, status.f_ffree) if os.geteuid() == 0 else (status.f_bavail, status.f_favail)
    )  # fmt: skip
    # A file system that does not report its size (FUSE) has 0 blocks.
    return (status.f_blocks > 0 and blocks == 0) or (status.f_files > 0 and files == 0)


def first_data(fd: int) -> int:
    """Return the position of the first byte that is not in a hole; 0 if the file system has no holes.

    For a file that is one hole this is its size. The call moves the descriptor's own position.
    """
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:  # ENXIO: the file is one hole; EINVAL: SEEK_DATA is not supported
        return os.fstat(fd).st_size if error.errno == errno.ENXIO else 0


def keep_end(fd: int, count: int) -> None:
    """Keep the last ``count`` bytes of a file, or up to a block more, and free the rest of its disk space.

    The beginning becomes a hole (fallocate(2)). The file keeps its size, so its readers and writers are not disturbed. If
    the file system has no holes (9p, some FUSE and network file systems), at most the last `REWRITTEN` bytes are written
    again; bytes that another process appends meanwhile may be lost or come before them.

    Args:
        fd: the descriptor, open for reading and appending.
        count: the bytes to keep.

    Raises:
        OSError: the file cannot be read or written.
    """
    status = os.fstat(fd)
    end = max(0, status.st_size - count) // status.st_blksize * status.st_blksize
    if end <= first_data(fd):
        return
    try:
        _punch_hole(fd, end)
    except OSError:  # EOPNOTSUPP; or the disk is full, and truncating the file frees space
        keep = os.pread(fd, min(count, REWRITTEN), max(0, status.st_size - min(count, REWRITTEN)))
        os.ftruncate(fd, 0)
        os.write(fd, keep)


def _punch_hole(fd: int, end: int) -> None:
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    checked(LIBC.fallocate(fd, mode, ctypes.c_int64(0), ctypes.c_int64(end)))
