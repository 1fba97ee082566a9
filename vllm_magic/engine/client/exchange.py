"""One HTTP request that always ends, because the whole exchange has a limit of time and of bytes.

The timeout of a socket, and of httpx, applies to each read, so an answer that comes one byte at a time never
ends. Here the standard library's parser (http.client) reads from a socket with one deadline and one limit of
bytes for everything: the look-up of the host's name, connecting, TLS, status line, headers, interim answers,
body and trailers. Nothing is decompressed, no redirect is followed and no proxy is used. Each request has its
own connection, which is closed when the answer is complete: an idle connection would delay a stopping server.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import ssl
import time
from contextlib import closing, suppress
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from vllm_magic.linux import lookups
from vllm_magic.masking import Secret, SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import Buffer

MOST = 8 * 2**20  # bytes of an answer; vLLM's /metrics has 60 kB for each engine
CONNECT_LIMIT = 5.0  # seconds
# Bytes read at once: http.client allocates as many bytes as it is asked for, and a length may be any number.
PIECE = 2**16
LONGEST_WAIT = 86_400.0  # seconds; a socket refuses very long timeouts

# Errors of the connection, of TLS and of http.client, which raises ValueError for an invalid number in an answer.
_FAILURES = (OSError, ValueError, http.client.HTTPException)


class NoAnswerError(Exception):
    """There is no complete answer; the text says why."""


class UnreachableError(NoAnswerError):
    """No connection can be made."""


class TooLateError(NoAnswerError):
    """The answer was not complete in time."""


class HttpResponse(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status means success (2xx)."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: the body is not JSON.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


def ask(
    method: str,
    url: str,
    limit: float,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    most: int = MOST,
    trust: ssl.SSLContext | None = None,
    connected: Callable[[], object] | None = None,
) -> HttpResponse:
    """Send a request, and return the complete answer.

    Args:
        method: the HTTP method.
        url: the URL, ``http`` or ``https``.
        limit: seconds for the whole exchange.
        body: the body of the request.
        headers: additional headers of the request.
        most: the largest answer, in bytes, with its headers.
        trust: the TLS context for ``https``; None for `any_certificate`.
        connected: called when the connection is made, before anything is sent; an error of it ends the exchange.

    Raises:
        NoAnswerError: there is no complete answer.
    """
    exchange = Exchange(
        method, url, limit, body=body, headers=headers, most=most, trust=trust, connected=connected
    )
    with closing(exchange):
        return HttpResponse(exchange.status, exchange.whole())


class Exchange:
    """A request that was sent, and the head of its answer. Use it from one thread, and close it when done.

    Arguments and errors are those of `ask`. ``limit`` and ``most`` also apply to the body, unless `renew` is called.

    Attributes:
        status: the status of the answer.
    """

    def __init__(
        self,
        method: str,
        url: str,
        limit: float,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int = MOST,
        trust: ssl.SSLContext | None = None,
        connected: Callable[[], object] | None = None,
    ) -> None:
        self._wire = _Wire(limit, most)
        try:
            head = _head(method, url, len(body), headers or {})
            self._wire.connect(url, trust, connected)
            self._wire.sendall(SecretBytes(head + body[:PIECE]))  # mostly the whole request in one packet
            self._wire.sendall(memoryview(body)[PIECE:])
            self._answer = http.client.HTTPResponse(self._wire, method=method)  # type: ignore[arg-type]
            self._answer.begin()
        except BaseException as error:
            self._wire.hang_up()
            if isinstance(error, _FAILURES):
                raise _as_no_answer(error) from None
            raise
        self.status = self._answer.status

    def whole(self) -> bytes:
        """Return the whole body.

        Raises:
            NoAnswerError: the body is not complete.
        """
        pieces: list[bytes] = []
        while piece := self._read(self._answer.read):
            pieces.append(piece)
        return b"".join(pieces)

    def pieces(self, silence: float) -> Iterator[bytes]:
        """Yield the body as it arrives, without a limit for the whole.

        Args:
            silence: the longest time without a piece, in seconds.

        Raises:
            NoAnswerError: the body is not complete.
        """
        self.renew(silence)
        while piece := self.more():
            yield piece
            self.renew(silence)

    def more(self) -> bytes:
        """Return the next bytes of the body; b"" at its end.

        Raises:
            NoAnswerError: the body is not complete.
        """
        return self._read(self._answer.read1)

    def header(self, name: str) -> str:
        """Return the value of a header of the answer; "" if there is none of this name."""
        return str(self._answer.headers.get(name, ""))

    def renew(self, limit: float) -> None:
        """Give the answer this many seconds from now on, and any number of bytes."""
        self._wire.renew(limit)

    def beginning(self, limit: float, most: int) -> bytes:
        """Return the first bytes of the body, at most ``most`` bytes, that arrive within ``limit`` seconds."""
        self.renew(limit)
        text = b""
        with suppress(NoAnswerError):
            while len(text) < most and (piece := self.more()):
                text += piece
        return text[:most]

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._wire.hang_up()

    def abort(self) -> None:
        """End the exchange from another thread: the thread that reads the body gets `NoAnswerError`."""
        self._wire.shut()

    def _read(self, read: Callable[[int], bytes]) -> bytes:
        try:
            piece = read(PIECE)
        except _FAILURES as error:
            raise _as_no_answer(error) from None
        if not piece and self._answer.length:  # http.client does not report that bytes are missing
            raise NoAnswerError("the connection was closed in the middle of the answer")
        return piece


class _Wire:
    """The connection for http.client, with a deadline and a limit of bytes."""

    def __init__(self, limit: float, most: int) -> None:
        self._deadline = time.monotonic() + limit
        self._left: float = most
        self._pid = os.getpid()
        self._socket: socket.socket | None = None

    def connect(self, url: str, trust: ssl.SSLContext | None, connected: Callable[[], object] | None) -> None:
        place = urlsplit(url)
        host, port = place.hostname or "", place.port or (443 if place.scheme == "https" else 80)
        until, self._deadline = self._deadline, min(self._deadline, time.monotonic() + CONNECT_LIMIT)
        try:
            self._socket = self._connected_socket(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid name
            raise UnreachableError(_reason(error)) from None
        self._deadline = until
        # Without this, the rest of a large body waits for the other side's acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connected is not None:
            connected()
        if place.scheme == "https":
            self._socket.settimeout(self._rest())
            self._socket = (trust or any_certificate()).wrap_socket(self._socket, server_hostname=host)

    def _connected_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to the first address of the host that accepts the connection."""
        error: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, address in lookups.addresses(host, port, self._rest()):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(self._rest())
                made.connect(address)
            except OSError as failed:
                made.close()
                error = failed
            else:
                return made
        raise error

    def sendall(self, data: bytes | memoryview) -> None:
        assert self._socket is not None  # noqa: S101 - connected
        view = memoryview(data)
        while view:
            self._socket.settimeout(self._rest())
            view = view[self._socket.send(view) :]

    def receive_into(self, buffer: Buffer) -> int:
        assert self._socket is not None  # noqa: S101 - connected
        self._socket.settimeout(self._rest())
        count = self._socket.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise OSError("the answer is too long")
        return count

    def renew(self, silence: float) -> None:
        """Set a new deadline, and remove the limit of bytes."""
        self._deadline, self._left = time.monotonic() + silence, float("inf")

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def shut(self) -> None:
        """End the connection, even if a forked child has a copy of it, or another thread reads from it.

        In a forked child, this does nothing: the connection is its parent's.
        """
        if self._socket is not None and self._pid == os.getpid():
            with suppress(OSError):  # it is over already
                self._socket.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        self.shut()
        if self._socket is not None:
            self._socket.close()

    def _rest(self) -> float:
        rest = self._deadline - time.monotonic()
        if rest <= 0:
            raise TimeoutError
        return min(rest, LONGEST_WAIT)


class _Reader(io.RawIOBase):
    """The file that http.client reads from, and closes when the answer is complete."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        return self._wire.receive_into(buffer)


def _head(method: str, url: str, length: int, headers: Mapping[str, str]) -> SecretBytes:
    """Return the head of a request. Any line may contain a key, so a traceback hides all of them."""
    place = urlsplit(url)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    host = place.netloc.rpartition("@")[2]
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", "Accept-Encoding: identity"]
    lines += [Secret(f"{name}: {value}") for name, value in headers.items()]
    if length or method not in {"GET", "DELETE"}:
        lines.append(f"Content-Length: {length}")
    if " " in target or not all(line.isascii() and line.isprintable() for line in lines):
        # The message does not show the character: it may be part of a key.
        raise NoAnswerError("the request contains a character that HTTP does not allow")
    return SecretBytes("\r\n".join([*lines, "", ""]).encode())


def _as_no_answer(error: Exception) -> NoAnswerError:
    return (TooLateError if isinstance(error, TimeoutError) else NoAnswerError)(_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no complete answer came in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


@lru_cache(maxsize=1)
def any_certificate() -> ssl.SSLContext:
    """Return a TLS context that accepts any certificate: a local server's certificate is issued to another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
