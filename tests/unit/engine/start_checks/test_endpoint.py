"""A host or a port on which the server cannot listen is told before the start."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from vllm_magic.engine import free_port
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import endpoint
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import InvalidOption, StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(*words: str, freed: tuple[int, ...] = (), **fields: Any) -> None:
    endpoint.check(PlannedStart(ServerSpec("m", words, **fields), {}, "/nowhere/vllm", None, freed))


@pytest.fixture
def taken() -> Iterator[int]:
    """The number of a port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port(taken):
    for how in ({"port": taken}, {"words": ("--port", str(taken))}, {"words": (f"--port={taken}",)}):
        with pytest.raises(StartFailed) as refused:
            check(*how.pop("words", ()), **how)
        assert refused.value.cause.startswith(f"Port {taken} is taken by ")
        assert f"(pid {os.getpid()}, " in refused.value.cause


def test_a_port_that_is_free_by_then(taken):
    check("--port", str(taken), freed=(taken,))


def test_another_address(taken):
    check("--port", str(taken), "--host", "127.0.0.2")


def test_a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    check("--port", str(port))
    check()


def test_no_port():
    with pytest.raises(InvalidOption, match="--port http is not a number"):
        check("--port", "http")


def test_a_port_for_privileged_users(monkeypatch):
    def bind(host: str, port: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(free_port, "bind", bind)
    with pytest.raises(StartFailed) as refused:
        check("--port", "80")
    assert str(refused.value) == (
        "Port 80 is for privileged users only. Choose a --port from 1024 on, or leave it out for a free one"
    )


def test_a_host_of_another_machine():
    with pytest.raises(
        StartFailed, match=r"^192\.0\.2\.1:any port cannot be used: .*\. Choose another --host$"
    ):
        check("--host", "192.0.2.1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--uds", "/tmp/x"), "--uds means a Unix socket"),
        (("--headless",), "--headless means no HTTP server"),
        (("--enable-sleep-mode", "--host", "0.0.0.0"), "cannot be used with --host 0.0.0.0"),
        (("--host", ""), "--host is empty"),
        (("--port", "0"), "0 is not a port"),
        (("--port", "-1"), "--port -1 is not a number"),
        (("--port", "70000"), "70000 is not a port"),
    ],
    ids=str,
)
def test_flags_that_cannot_be_used(words, said):
    with pytest.raises(InvalidOption, match=said):
        check(*words)
