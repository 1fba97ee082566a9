"""The openai package's clients of a server: to whom they send a request."""

from __future__ import annotations

import asyncio
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from misbehaving import Misbehaving

from vllm_magic.engine.client.connection import Connection
from vllm_magic.engine.client.requests import OpenClients, RequestMethods
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.errors import RequestFailed

GONE = "tiny does not listen on its port any more"
WAYS = pytest.mark.parametrize("way", ["client", "async_client"])


def requests_to(port: int, verify) -> RequestMethods:
    """Return the methods that ask a server on this port."""
    endpoint = Endpoint("127.0.0.1", port, "key-of-a-server")
    return RequestMethods(lambda: Connection("tiny", endpoint, verify), OpenClients())


def ask(asked: RequestMethods, way: str, count: int = 1, **options) -> None:
    """Ask as many times with one client."""
    if way == "client":
        with asked.client().with_options(**options) as client:
            for _ in range(count):
                client.completions.create(model="tiny", prompt="my secret")
        return

    async def wait() -> None:
        async with asked.async_client().with_options(**options) as client:
            for _ in range(count):
                await client.completions.create(model="tiny", prompt="my secret")

    asyncio.run(wait())


@WAYS
def test_nothing_is_sent_to_another_program(way):
    def refuse() -> None:
        raise RequestFailed(GONE)

    with Misbehaving("silence") as other:
        with pytest.raises(RequestFailed, match=GONE):
            ask(requests_to(other.port, refuse), way)
        assert not other.met.is_set()


@WAYS
@pytest.mark.parametrize("retries", [0, 2])
def test_who_listens_is_looked_at_again_on_the_connection(way, retries):
    """Between connecting and sending, so that nobody can take the port in between."""
    looks = []

    def change() -> None:
        looks.append(other.met.wait(60) if looks else other.met.is_set())
        if len(looks) > 1:
            raise RequestFailed(GONE)

    with Misbehaving("silence") as other:
        with pytest.raises((RequestFailed, openai.APIConnectionError)):
            ask(requests_to(other.port, change), way, max_retries=retries)
        assert looks[:2] == [False, True]
        time.sleep(0.1)
        assert other.heard == b""


class Kept(BaseHTTPRequestHandler):
    """Keeps its connections; ``server.seen`` has the connection of each request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(self.connection)
        body = b'{"choices": []}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@WAYS
def test_a_connection_that_was_kept_is_looked_at_too(way):
    looks = []

    def change() -> None:
        looks.append(len(other.seen))
        if len(looks) > 5:
            raise RequestFailed(GONE)

    with ThreadingHTTPServer(("127.0.0.1", 0), Kept) as other:
        other.seen = []
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            with pytest.raises((RequestFailed, openai.APIConnectionError)):
                ask(requests_to(other.server_address[1], change), way, 3, max_retries=0)
        finally:
            other.shutdown()
    assert looks == [0, 0, 1, 1, 2, 2]
    assert len(other.seen) == 2
    assert len(set(other.seen)) == 1


@WAYS
@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirect_is_not_followed(way, status):
    """The address that it names would get the prompt."""
    with Misbehaving("silence") as other:
        there = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}/v1\r\nContent-Length: 0\r\n\r\n"
        with Misbehaving(there.encode()) as server:
            with pytest.raises(openai.APIStatusError) as caught:
                ask(requests_to(server.port, lambda: None), way, timeout=60)
            assert caught.value.status_code == status
        assert not other.met.is_set()
