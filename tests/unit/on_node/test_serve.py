"""What the job on a node says of its server's port, whatever ends the server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vllm_magic.cluster import wire
from vllm_magic.on_node import serve
from vllm_magic.server.server import ServerState

POLLS = 3  # of a server that is ready


@pytest.mark.parametrize("ends", ["asked", "lease over", "by itself"])
@pytest.mark.parametrize("is_ready", [True, False])
def test_the_end_of_the_port_is_said_before_the_release(monkeypatch, ends, is_ready):
    """From then on another process may have the port, and the release may take long."""
    said: list[str] = []
    polls = []

    def is_end(cause: str) -> bool:
        return ends == cause and len(polls) >= POLLS

    class Server:
        port = 8000

        @property
        def state(self) -> ServerState:
            if is_end("by itself"):
                return ServerState.FAILED
            return ServerState.READY if is_ready else ServerState.STARTING

    class Lease:
        @property
        def over(self) -> bool:
            return is_end("lease over")

    stop_request = SimpleNamespace(is_set=lambda: is_end("asked"), wait=polls.append)
    monkeypatch.setattr(serve, "_print", said.append)
    serve._serve_until_end(Server(), stop_request, Lease(), SimpleNamespace(copy_new=lambda: None))
    kinds = [content["kind"] for content in map(wire.parse, said) if content]
    assert kinds == ([wire.LISTENS, wire.ENDS] if is_ready else [])
