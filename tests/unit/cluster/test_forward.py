"""The forwarder of a server's port: what it hears of the server may come in any order, and faster than it acts."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from vllm_magic.cluster.forward import LOOPBACK, Forwarder
from vllm_magic.engine import free_port


@pytest.fixture
def forwarder():
    one = Forwarder(free_port.choose(LOOPBACK))
    yield one
    one.close()
    one._socket.close()


async def reaches(forwarder: Forwarder, before) -> bool:
    """Whether what a client sends reaches the process that listens on the server's port now."""
    reached = asyncio.Event()

    async def stranger(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async with await asyncio.start_server(stranger, LOOPBACK, 0) as server:
        address = forwarder._socket.getsockname()
        await before(server.sockets[0].getsockname())
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"Authorization: Bearer the-key\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()
        await asyncio.gather(*forwarder._open)
        return reached.is_set()


def test_it_forwards(forwarder):
    assert asyncio.run(reaches(forwarder, forwarder.listen))


@pytest.mark.parametrize("order", ["before", "during", "after"])
def test_nothing_reaches_the_next_process_on_the_port_of_a_server_that_has_ended(forwarder, order):
    """The lines of a job's log may come all at once: that the server listens, and that it ends."""

    async def listen_and_close(to: tuple[str, int]) -> None:
        if order == "before":
            forwarder.close()
        listening = asyncio.ensure_future(forwarder.listen(to))
        if order == "during":
            await asyncio.sleep(0)
            forwarder.close()
        await listening
        if order == "after":
            forwarder.close()

    assert not asyncio.run(reaches(forwarder, listen_and_close))


def test_a_connection_that_was_accepted_as_it_ended(forwarder):
    accept = forwarder._accept

    async def accept_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarder.close()
        await accept(reader, writer)

    forwarder._accept = accept_late
    assert not asyncio.run(reaches(forwarder, forwarder.listen))
