"""A file system in memory that stops answering when it is told to, and answers again. Needs root."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import fuse_server
from fuse_server import BLOCK, HEADER, LONGEST_REQUEST, ROOT, UNANSWERED, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Node:
    """A file or folder."""

    mode: int
    user: int
    group: int
    changed: float = field(default_factory=time.time)
    data: bytearray = field(default_factory=bytearray)
    children: dict[bytes, int] = field(default_factory=dict)


class Files:
    """The files and folders, by number, and the answers to requests. Nothing is forgotten."""

    def __init__(self) -> None:
        self.nodes = {ROOT: Node(stat.S_IFDIR | 0o700, os.getuid(), os.getgid())}

    def answer(  # noqa: C901, PLR0911, PLR0912 - one case for each operation
        self, operation: int, number: int, owner: tuple[int, int], body: bytes
    ) -> bytes:
        """Return the answer.

        Raises:
            OSError: the answer is this error.
        """
        node = self.nodes.get(number) or Node(0, 0, 0)
        match operation:
            case Operation.INIT:
                return fuse_server.begin(body)
            case Operation.LOOKUP:
                return self._entry(self._child(node, body.rstrip(b"\0")))
            case Operation.GETATTR:
                return struct.pack("<Q2I", 0, 0, 0) + self._attributes(number)
            case Operation.SETATTR:
                return self._set(node, number, body)
            case Operation.MKNOD:
                mode = struct.unpack_from("<I", body)[0]
                return self._entry(self._make(node, body[16:].rstrip(b"\0"), Node(mode, *owner)))
            case Operation.MKDIR:
                mode = struct.unpack_from("<I", body)[0] | stat.S_IFDIR
                return self._entry(self._make(node, body[8:].rstrip(b"\0"), Node(mode, *owner)))
            case Operation.CREATE:
                mode = struct.unpack_from("<2I", body)[1]
                made = self._make(node, body[16:].rstrip(b"\0"), Node(mode, *owner))
                return self._entry(made) + fuse_server.opened(made)
            case Operation.UNLINK | Operation.RMDIR:
                name = body.rstrip(b"\0")
                if self.nodes[self._child(node, name)].children:
                    raise OSError(errno.ENOTEMPTY, "")
                del node.children[name]
                return b""
            case Operation.RENAME | Operation.RENAME_NEW:
                skip = 8 if operation == Operation.RENAME else 16
                old, new = body[skip:].rstrip(b"\0").split(b"\0")
                moved = self._child(node, old)
                del node.children[old]
                self.nodes[struct.unpack_from("<Q", body)[0]].children[new] = moved
                return b""
            case Operation.OPEN | Operation.OPENDIR:
                return fuse_server.opened(number)
            case Operation.READ:
                _, offset, size = struct.unpack_from("<2QI", body)
                return bytes(node.data[offset : offset + size])
            case Operation.WRITE:
                return self._write(node, body)
            case Operation.READDIR:
                return self._list(node, body)
            case Operation.STATFS:
                return struct.pack("<5Q10I", 2**20, 2**20, 2**20, 2**20, 2**20, BLOCK, 255, BLOCK, *[0] * 7)
            case Operation.RELEASE | Operation.RELEASEDIR | Operation.FLUSH | Operation.FSYNC:
                return b""
        raise OSError(errno.ENOSYS, "")

    def _child(self, folder: Node, name: bytes) -> int:
        if name not in folder.children:
            raise OSError(errno.ENOENT, "")
        return folder.children[name]

    def _make(self, folder: Node, name: bytes, node: Node) -> int:
        if name in folder.children:
            raise OSError(errno.EEXIST, "")
        number = len(self.nodes) + 1
        self.nodes[number] = node
        folder.children[name] = number
        return number

    def _set(self, node: Node, number: int, body: bytes) -> bytes:
        valid = struct.unpack_from("<I", body)[0]
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(struct.unpack_from("<I", body, 68)[0])
        if valid & 8:
            size = struct.unpack_from("<Q", body, 16)[0]
            node.data[size:] = b"\0" * max(0, size - len(node.data))
        return struct.pack("<Q2I", 0, 0, 0) + self._attributes(number)

    def _write(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<2QI", body)
        if offset > len(node.data):
            node.data += b"\0" * (offset - len(node.data))
        node.data[offset : offset + size] = body[40 : 40 + size]
        node.changed = time.time()
        return struct.pack("<2I", size, 0)

    def _list(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<2QI", body)
        found = b""
        for position, (name, number) in list(enumerate(node.children.items(), 1))[offset:]:
            kind = self.nodes[number].mode >> 12
            row = struct.pack("<2Q2I", number, position, len(name), kind) + name
            row += b"\0" * (-len(row) % 8)
            if len(found) + len(row) > size:
                break
            found += row
        return found

    def _entry(self, number: int) -> bytes:
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + self._attributes(number)

    def _attributes(self, number: int) -> bytes:
        node = self.nodes[number]
        blocks, seconds = -(-len(node.data) // 512), int(node.changed)
        rest = (node.mode, 1, node.user, node.group, 0, BLOCK, 0)
        return struct.pack("<6Q10I", number, len(node.data), blocks, *[seconds] * 3, 0, 0, 0, *rest)


class Server:
    """Answers the requests of the kernel, or keeps them for later while it is silent."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files = Files()
        self._lock = threading.Lock()
        self._is_silent = False
        self._waiting: list[bytes] = []

    def serve(self) -> None:
        """Handle requests until the file system is unmounted."""
        while True:
            data = os.read(self._fd, LONGEST_REQUEST)
            with self._lock:
                operation = HEADER.unpack_from(data)[1]
                if not self._is_silent or operation in UNANSWERED:
                    self._handle(data)
                else:
                    self._waiting.append(data)

    def obey(self) -> None:
        """Become silent, or answer again, as the lines of stdin say."""
        for line in sys.stdin:
            with self._lock:
                self._is_silent = line == "silent\n"
                if not self._is_silent:
                    for data in self._waiting:
                        self._handle(data)
                    self._waiting.clear()
            print(line, end="", flush=True)

    def _handle(self, data: bytes) -> None:
        _, operation, request, number, user, group, *_ = HEADER.unpack_from(data)
        if operation in UNANSWERED:
            return
        error_number, content = 0, b""
        try:
            content = self._files.answer(operation, number, (user, group), data[HEADER.size :])
        except OSError as error:
            error_number = error.errno or errno.EIO
        with contextlib.suppress(FileNotFoundError):  # the request was interrupted
            fuse_server.answer(self._fd, request, content, error_number)


class SilentDisk:
    """The mounted file system.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path, server: subprocess.Popen[str]) -> None:
        self.path = path
        self._server = server

    def be_silent(self) -> None:
        """Answer no more requests."""
        self._tell("silent\n")

    def answer(self) -> None:
        """Answer all requests, those that wait too."""
        self._tell("answer\n")

    def _tell(self, line: str) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(line)
        self._server.stdin.flush()
        assert self._server.stdout.readline() == line


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[SilentDisk]:
    """Mount the file system, which answers at first, until the end of the block."""
    with fuse_server.running(__file__, path) as server:
        yield SilentDisk(path, server)


def _main(path: str) -> None:
    fd = fuse_server.mount("silent", path)
    server = Server(fd)
    threading.Thread(target=server.serve).start()
    print("mounted", flush=True)
    server.obey()
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1])
