"""Real connections of a port, as the kernel reports them."""

from __future__ import annotations

import socket
import time

import pytest

from vllm_magic.linux import connections
from vllm_magic.linux.connections import TcpConnection, established

LIMIT = 30.0


def until(port, condition) -> list[TcpConnection]:
    deadline = time.monotonic() + LIMIT
    while not condition(found := established(port)):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_reports_its_bytes_and_times(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    port = listener.getsockname()[1]
    with listener, socket.create_connection((host, port)) as client:
        server = listener.accept()[0]
        with server:
            (new,) = established(port)
            assert new.received == 0
            time.sleep(0.1)
            client.sendall(b"ask")
            (asked,) = until(port, lambda found: found[0].received == 3)
            assert asked.name == new.name
            assert asked.since_sent == float("inf")
            time.sleep(0.1)
            server.sendall(b"answer")
            (answered,) = until(port, lambda found: found[0].since_sent < found[0].since_received)
            assert answered.received == 3
            with socket.create_connection((host, port)):
                assert len({one.name for one in established(port)}) == 2
            client.close()
            until(port, lambda found: (len(found) == 1 and found[0].name != new.name) or not found)
        until(port, lambda found: not found)
    assert established(port) == []


def test_without_netlink_only_the_connections_are_known(monkeypatch):
    def refused(*_, **__):
        raise OSError

    monkeypatch.setattr(connections.sock_diag, "dump", refused)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert established(port) == []
        with socket.create_connection(("127.0.0.1", port)) as client:
            (found,) = established(port)
            assert (found.received, found.since_received, found.since_sent) == (
                None,
                float("inf"),
                float("inf"),
            )
            with socket.create_connection(("127.0.0.1", port)):
                assert len({one.name for one in established(port)}) == 2
            assert client.fileno() > 0


class Endless:
    """A netlink socket that never finishes its answer."""

    def __init__(self, *_):
        self._reads = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def settimeout(self, _seconds):
        pass

    def send(self, _data):
        pass

    def recv(self, _size):
        self._reads += 1
        assert self._reads < 1000, "the dump is read without end"
        time.sleep(0.001)
        header = connections.sock_diag._HEADER
        return header.pack(header.size + 72, 20, 0, 1, 0) + bytes(72)


def test_a_dump_without_end(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            monkeypatch.setattr(connections, "LIST_LIMIT", 0.1)
            monkeypatch.setattr(socket, "socket", Endless)
            # A busy machine may need longer than that for the table.
            connected = connections.sockets.connected
            monkeypatch.setattr(connections.sockets, "connected", lambda port, _: connected(port, 30.0))
            (found,) = established(port)
            assert (found.received, found.since_received, found.since_sent) == (
                None,
                float("inf"),
                float("inf"),
            )


def test_a_table_without_end(monkeypatch):
    def refused(*_, **__):
        raise OSError

    monkeypatch.setattr(connections.sock_diag, "dump", refused)
    monkeypatch.setattr(connections, "LIST_LIMIT", 0.0)
    with socket.create_server(("127.0.0.1", 0)), pytest.raises(TimeoutError):
        established(1)
