"""A file system that hangs: it has one file, whose reads are not answered. Needs root.

A read that is not answered blocks the thread that faults on a mapped page of the file. The first reads are answered with an
error: then Linux repeats the fault with the lock of the address space held (FAULT_FLAG_TRIED in mm/filemap.c), and every
reader of /proc/PID/environ and /proc/PID/cmdline of that process waits as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import by_hand
import fuse_server
from fuse_server import BLOCK, HEADER, LONGEST_REQUEST, ROOT, UNANSWERED, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vllm_magic.linux.processes import Identity

NAME = "model"
SIZE = 2**20  # bytes
FILE = 2  # its node
LONGEST_CACHE = 3600  # seconds

# One thread reads the file, one changes the address space now and then, and the main thread sleeps.
FAULTING = """
import ctypes, mmap, os, sys, threading, time
libc = ctypes.CDLL(None)
libc.strlen.argtypes = [ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
mapped = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
with open("/proc/self/maps") as maps:
    address = next(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith(sys.argv[1]))
def change():
    while True:
        libc.munmap(libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0), 4096)
        time.sleep(0.01)
print("up", flush=True)
threading.Thread(target=change, daemon=True).start()
threading.Thread(target=libc.strlen, args=(address,), daemon=True).start()
libc.pause()
"""


def _attributes(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == ROOT else (0o100644, SIZE)
    return struct.pack("<6Q10I", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, BLOCK, 0)


def _answer(operation: int, node: int, body: bytes) -> bytes | int:
    """Return the answer to a request, or the number of an error."""
    match operation:
        case Operation.INIT:
            return fuse_server.begin(body)
        case Operation.LOOKUP:
            found = struct.pack("<4Q2I", FILE, 0, LONGEST_CACHE, LONGEST_CACHE, 0, 0) + _attributes(FILE)
            return found if body.rstrip(b"\0") == NAME.encode() else errno.ENOENT
        case Operation.GETATTR:
            return struct.pack("<Q2I", LONGEST_CACHE, 0, 0) + _attributes(node)
        case Operation.OPEN | Operation.OPENDIR:
            return fuse_server.opened(node)
        case Operation.RELEASE | Operation.FLUSH:
            return b""
    return errno.ENOSYS


def _serve(fd: int, errors: int) -> None:
    """Answer all requests but reads; answer the first reads with an error."""
    while True:
        data = os.read(fd, LONGEST_REQUEST)
        _, operation, request, node, *_ = HEADER.unpack_from(data)
        answer = _answer(operation, node, data[HEADER.size :])
        if operation == Operation.READ:
            errors -= 1
            answer = errno.EIO
        if operation in UNANSWERED or (operation == Operation.READ and errors < 0):
            continue
        error, content = (answer, b"") if isinstance(answer, int) else (0, answer)
        fuse_server.answer(fd, request, content, error)


class HangingDisk:
    """The mounted file system; ``file`` is its one file, and ``errors`` as for `mounted`."""

    def __init__(self, folder: Path, errors: int, server: subprocess.Popen[str]) -> None:
        self.file = folder / NAME
        self.errors = errors
        self._server = server

    def end(self) -> None:
        """End its server: every request fails then, and what hangs goes on."""
        self._server.kill()
        self._server.wait(by_hand.LIMIT)


@contextlib.contextmanager
def mounted(folder: Path, errors: int) -> Iterator[HangingDisk]:
    """Mount the file system, until the end of the block; ``errors`` is the number of reads that fail before one hangs."""
    with fuse_server.running(__file__, folder, str(errors)) as server:
        yield HangingDisk(folder, errors, server)


@contextlib.contextmanager
def locked_process(folder: Path) -> Iterator[tuple[Identity, HangingDisk]]:
    """Run a process whose address space is locked, until the end of the block; the disk for which it waits.

    How many reads must fail depends on the version of Linux.
    """
    for errors in (2, 1, 3, 0, 4):
        with mounted(folder, errors) as disk:
            command = [sys.executable, "-c", FAULTING, str(disk.file)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
                assert child.stdout
                try:
                    assert child.stdout.readline() == b"up\n"
                    if is_locked(child.pid):
                        yield by_hand.identity(child.pid), disk
                        return
                finally:
                    child.kill()
                    disk.end()
    raise AssertionError("no fault holds the lock of the address space")


def is_locked(pid: int) -> bool:
    """Whether the environment of the process can not be read any more; tried for some seconds, by other processes."""
    return any(not _is_readable(pid) for _ in range(10))


def _is_readable(pid: int) -> bool:
    reader = subprocess.Popen(["cat", f"/proc/{pid}/environ"], stdout=subprocess.DEVNULL)
    try:
        reader.wait(1.0)
    except subprocess.TimeoutExpired:
        return False
    else:
        time.sleep(0.1)
        return True
    finally:
        reader.kill()
        reader.wait(by_hand.LIMIT)


def _main(folder: str, errors: int) -> None:
    fd = fuse_server.mount("hanging", folder)
    threading.Thread(target=print, args=("mounted",), kwargs={"flush": True}).start()
    _serve(fd, errors)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
