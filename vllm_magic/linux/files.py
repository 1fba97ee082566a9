"""Reading files that others chose, cutting off the beginning of one that others go on appending to, and full disks."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

FALLOC_FL_KEEP_SIZE = 0x1  # include/uapi/linux/falloc.h
FALLOC_FL_PUNCH_HOLE = 0x2
REWRITTEN = 2**20  # bytes that are kept where a file can have no holes

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_libc = ctypes.CDLL(None, use_errno=True)


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """All of a regular file.

    Args:
        path: of the file, or of a link to it.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, has more, or is something else: a pipe would be waited for, and a device may have no end.
    """
    try:
        _check_regular(os.stat(path))  # before it is opened: of a device, that alone may do something
        with open(path, "rb", opener=unblocked) as file:
            _check_regular(os.fstat(file.fileno()))
            data = file.read(most + 1)
    except ValueError:
        raise OSError(errno.EINVAL, "no file can be called so") from None
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes")
    return data


def unblocked(path: str, flags: int) -> int:
    """An opener for `open` that does not wait for whoever writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def is_on_full_disk(path: str | os.PathLike[str]) -> bool:
    """Whether no block, or no file, is left for this user on the file system of the path; a quota is not seen."""
    try:
        there = os.statvfs(path)
    except OSError:
        return False
    blocks, files = (
        (there.f_bfree, there.f_ffree) if os.geteuid() == 0 else (there.f_bavail, there.f_favail)
    )  # fmt: skip
    # A file system that does not tell (FUSE) has no blocks at all.
    return (there.f_blocks > 0 and blocks == 0) or (there.f_files > 0 and files == 0)


def first_data(fd: int) -> int:
    """The position of the first byte that is not in a hole, or the size; 0 where the file system knows no holes.

    The descriptor's own position moves.
    """
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:  # ENXIO: nothing but a hole; EINVAL where the question is not understood
        return os.fstat(fd).st_size if error.errno == errno.ENXIO else 0


def keep_end(fd: int, count: int) -> None:
    """Give the disk back all but the last ``count`` bytes, or a block more.

    The beginning becomes a hole (fallocate(2)): the file keeps its size, so no reader and no writer notices, and
    no byte is lost. Where the file system has no holes (9p, some FUSE and network ones) the last `REWRITTEN`
    bytes at most are written anew; what others append meanwhile may be lost or come before them.

    Args:
        fd: open for reading and appending.
        count: bytes.

    Raises:
        OSError: it cannot be read or written.
    """
    status = os.fstat(fd)
    end = max(0, status.st_size - count) // status.st_blksize * status.st_blksize
    if end <= first_data(fd):
        return
    try:
        _punch_hole(fd, end)
    except (
        OSError
    ):  # EOPNOTSUPP; a file system that is full may refuse as well, and is helped by the other way
        keep = os.pread(fd, min(count, REWRITTEN), max(0, status.st_size - min(count, REWRITTEN)))
        os.ftruncate(fd, 0)
        os.write(fd, keep)


def _punch_hole(fd: int, end: int) -> None:
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if _libc.fallocate(fd, mode, ctypes.c_int64(0), ctypes.c_int64(end)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
