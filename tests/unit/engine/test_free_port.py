"""The port of a server is one that Linux gives to no other program meanwhile, if there are such."""

from __future__ import annotations

import socket

import pytest

from vllm_magic.engine import free_port

HOST = "127.0.0.1"


@pytest.fixture
def linux_gives(tmp_path, monkeypatch):
    """Set the range from which Linux chooses."""

    def give(text: str) -> None:
        path = tmp_path / "ip_local_port_range"
        path.write_text(text)
        monkeypatch.setattr(free_port, "_GIVEN_BY_LINUX", path)

    return give


def test_it_is_below_those_that_linux_gives(linux_gives):
    linux_gives("30000\t60999\n")
    ports = [free_port.choose(HOST) for _ in range(20)]
    assert all(free_port.LOWEST <= port < 30000 for port in ports)
    assert len(set(ports)) == 20


@pytest.mark.parametrize("text", ["1024 65535", "", "nonsense"])
def test_where_linux_gives_all_it_chooses(linux_gives, text):
    linux_gives(text)
    assert free_port.choose(HOST) > 0


def test_one_that_is_taken_is_left_out(linux_gives):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        linux_gives(f"{free_port.LOWEST + 2} 60999")
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found = {free_port.choose(HOST) for _ in range(4)}
    assert port not in found
    assert len(found) == 4
