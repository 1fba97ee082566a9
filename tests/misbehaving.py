"""Servers that misbehave: they answer a byte at a time, or without end."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

PAUSE = 0.05  # seconds between two pieces of a slow answer
LIFE = 120.0  # seconds after which a connection ends whatever the client does
OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = b"10000\r\n" + b"vllm:x 1\n" * 7281 + b"1234567" + b"\r\n"
BOMB = gzip.compress(b"\0" * 2**28)  # 256 MiB, in 256 kB


def slowly(*pieces: bytes, then: bytes) -> Iterator[bytes]:
    """Yield these pieces, and then the bytes of ``then`` one at a time, for ever."""
    yield from pieces
    for number in itertools.cycle(range(max(1, len(then)))):
        time.sleep(PAUSE)
        yield then[number : number + 1]


def fast(*pieces: bytes, then: bytes) -> Iterator[bytes]:
    """Yield these pieces, and then ``then`` for ever."""
    yield from pieces
    yield from itertools.repeat(then)


WAYS = {
    "silence": lambda: slowly(then=b""),
    "a status line, a byte at a time": lambda: slowly(then=b"H"),
    "headers, a byte at a time": lambda: slowly(OK, b"X: ", then=b"x"),
    "short headers, a byte at a time": lambda: slowly(OK, then=b"X: y\r\n"),
    "headers without end": lambda: fast(OK, then=b"X: " + b"y" * 1000 + b"\r\n"),
    "interim answers, slowly": lambda: slowly(then=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers without end": lambda: fast(then=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body, a byte at a time": lambda: slowly(OK, b"Content-Length: 1000000\r\n\r\n", then=b"x"),
    "a body of no length, a byte at a time": lambda: slowly(OK, b"\r\n", then=b"x"),
    "a body without end": lambda: fast(OK, b"\r\n", then=b"x" * 2**16),
    "chunks, a byte at a time": lambda: slowly(OK, b"Transfer-Encoding: chunked\r\n\r\n", then=b"1\r\nx\r\n"),
    "chunks without end": lambda: fast(OK, b"Transfer-Encoding: chunked\r\n\r\n", then=CHUNK),
    "trailers without end": lambda: fast(OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n", then=b"X: y\r\n"),
    "a length beyond all memory": lambda: slowly(OK, b"Content-Length: %d\r\n\r\n" % 2**50, then=b"x"),
    "a chunk beyond all memory": lambda: slowly(
        OK, b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 2**50, then=b"x"
    ),
    "a bomb without end": lambda: fast(OK, b"Content-Encoding: gzip\r\n\r\n", then=BOMB),
}


class Misbehaving:
    """A server that answers every connection in one way, whatever the request.

    Attributes:
        sent: the bytes that it has sent so far, over all connections.
        heard: the bytes that it has received so far, over all connections.
        port: the port on 127.0.0.1.
    """

    def __init__(self, answer: str | bytes, port: int = 0) -> None:
        self.sent = 0
        self.heard = b""
        self.met = threading.Event()  # set when a client has connected
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self.met.set()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        answer: Iterable[bytes] = [self._answer] if isinstance(self._answer, bytes) else WAYS[self._answer]()
        until = time.monotonic() + LIFE
        with connection, contextlib.suppress(OSError):
            connection.settimeout(LIFE)
            asked = connection.recv(2**16)
            self.heard += asked
            for piece in answer if asked else ():
                if self._over.is_set() or time.monotonic() > until:
                    return
                connection.sendall(piece)
                self.sent += len(piece)
