"""Forward a port of the loopback interface to a server on a node."""

from __future__ import annotations

import asyncio
import contextlib

from vllm_magic.engine import free_port

LOOPBACK = "127.0.0.1"
CHUNK = 2**16  # bytes


class Forwarder:
    """Accepts connections on a port of this machine, and opens a connection to the server for each.

    The constructor binds the port. Connections are accepted only after `listen`, once the server's address is known.

    Args:
        port: the port of the loopback interface.

    Raises:
        OSError: another process has the port.
    """

    def __init__(self, port: int) -> None:
        self._socket = free_port.bind(LOOPBACK, port)
        self._to: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._closed = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def listen(self, to: tuple[str, int]) -> None:
        """Begin to accept connections, unless the forwarder is closed; ``to`` is the address and the port of the server."""
        if self._closed.is_set():
            return
        self._to = to
        self._server = await asyncio.start_server(self._accept, sock=self._socket)
        if self._closed.is_set():
            self._server.close()

    def close(self) -> None:
        """Accept no more connections, and end the open ones. After this, another process may have the server's port."""
        self._closed.set()
        if self._server:
            self._server.close()
        for task in self._open:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed.is_set():
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this method in a task
        self._open.add(task)
        try:
            assert self._to is not None  # noqa: S101 - `listen` has set it
            server_reader, server_writer = await asyncio.open_connection(*self._to)
            with contextlib.closing(server_writer):
                await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))
        except OSError:  # the server does not listen yet, or does not listen any more
            pass
        finally:
            self._open.discard(task)
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the reader's end, and tell the other side about the end."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
