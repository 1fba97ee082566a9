"""What the file systems of the tests share: FUSE without a library (include/uapi/linux/fuse.h). Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import sys
from enum import IntEnum
from typing import TYPE_CHECKING

import by_hand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = struct.Struct(
    "<IIQQIIIHH"
)  # of a request: its size, operation, number, node, user, group, process, ...
LONGEST_REQUEST = 2**20  # bytes
ROOT = 1  # the node of the folder where the file system is mounted
BLOCK = 4096  # bytes
_VERSION = (7, 31)
_DETACH = 2  # MNT_DETACH: unmount at once, while the file system is in use
_libc = ctypes.CDLL(None, use_errno=True)


class Operation(IntEnum):
    """What is asked of the file system."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    FORGET_MANY = 42
    RENAME_NEW = 45


UNANSWERED = (Operation.FORGET, Operation.FORGET_MANY, Operation.INTERRUPT)


def mount(name: str, folder: str) -> int:
    """Mount a file system of this name, and return the descriptor from which its requests are read."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    result = _libc.mount(name.encode(), os.fsencode(folder), b"fuse", 0, options.encode())
    _check(result, f"FUSE cannot be mounted at {folder}")
    return fd


@contextlib.contextmanager
def running(program: str, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program of a file system until the end of the block; wait until it has printed "mounted"."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, program, str(folder), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            assert server.stdout.readline() == "mounted\n"
            yield server
        finally:
            server.kill()  # what waits for it goes on, with an error
            server.wait(by_hand.LIMIT)
            _check(_libc.umount2(os.fsencode(folder), _DETACH), f"{folder} cannot be unmounted")


def _check(result: int, problem: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{problem}: {os.strerror(ctypes.get_errno())}")


def begin(body: bytes) -> bytes:
    """Return the answer to `Operation.INIT`, the first request."""
    _, _, ahead, _ = struct.unpack_from("<4I", body)
    return struct.pack("<4I2H2I2H8I", *_VERSION, ahead, 0, 12, 9, 65536, 1, *[0] * 10)


def opened(node: int) -> bytes:
    """Return the answer to `Operation.OPEN` and `Operation.OPENDIR`."""
    return struct.pack("<Q2I", node, 0, 0)


def answer(fd: int, request: int, content: bytes, error: int = 0) -> None:
    """Answer a request, with the number of an error, or with content."""
    os.write(fd, struct.pack("<IiQ", 16 + len(content), -error, request) + content)
