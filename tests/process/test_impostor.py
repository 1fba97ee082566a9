"""Another user who answers on the port of a server: he is not taken for it, and gets no key and no prompt."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from by_hand import free_port, until

PROGRAM = Path(__file__).with_name("impostor.py")
_real = socket.getaddrinfo


class Impostor:
    """The process of another user that listens at this address; `heard` is what he was asked."""

    def __init__(self, address: str, port: int) -> None:
        nobody = str(pwd.getpwnam("nobody").pw_uid)
        self.heard: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, nobody, address, str(port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "listens\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        self.heard += map(json.loads, self.process.stdout)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()


@pytest.fixture
def impostor():
    """Has another user listen: ``impostor(address, port)``."""
    if os.getuid() != 0:
        pytest.fail("Only root can become another user: run this as root (CI does)")
    with contextlib.ExitStack() as stack:

        def listen(address: str, port: int) -> Impostor:
            made = Impostor(address, port)
            stack.callback(made.end)
            return made

        yield listen


@pytest.fixture
def ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.fail("NEEDS IPv6 on the loopback: sysctl net.ipv6.conf.lo.disable_ipv6=0")


@pytest.fixture
def localhost(monkeypatch):
    """What this process finds for "localhost", as from /etc/hosts: ``localhost("::1", "127.0.0.1")``."""

    def name(*addresses: str) -> None:
        def look_up(host, port, *how, **more):
            if host != "localhost":
                return _real(host, port, *how, **more)
            found = []
            for address in addresses:
                with contextlib.suppress(socket.gaierror):
                    found += _real(address, port, *how, **more)
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return found

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return name


def test_one_that_has_the_other_address_of_localhost(manager, spec, impostor, ipv6, localhost, traces):
    localhost("::1", "127.0.0.1")
    port = free_port()
    other = impostor("::1", port)
    server = manager.start(spec("tiny", "--host", "localhost", "--port", str(port)), timeout=60).server
    assert server.complete("my secret", max_tokens=2).text == " word0 word1"
    with server.client() as client:
        assert client.models.list().data[0].id == "tiny"
    assert other.heard == []
    assert server.stop().verified
    traces.check()


def test_localhost_that_is_ipv6_alone(manager, spec, ipv6, localhost, traces):
    localhost("::1")
    server = manager.start(spec("tiny", "--host", "localhost"), timeout=60).server
    assert server.url == f"http://[::1]:{server.port}"
    assert not server.exposed
    assert server.complete("hello", max_tokens=2).text == " word0 word1"
    assert server.stop().verified
    traces.check()


@pytest.mark.parametrize("asked", ["127.0.0.1", "0.0.0.0"])
def test_a_server_that_listens_at_another_address_than_told(
    manager, spec, executable, impostor, tmp_path, traces, asked
):
    """A wrapper of vLLM has it listen elsewhere; the one who answers instead is not taken for it."""
    wrapper = tmp_path / "vllm"
    wrapper.write_text(f'#!/bin/sh\nexec {executable} "$@" --host 127.0.0.2\n')
    wrapper.chmod(0o755)
    port = free_port()
    wanted = spec("tiny", "--host", asked, "--port", str(port), executable=str(wrapper))
    server = manager.start(wanted, wait=False).server
    until(lambda: server.pid, "it does not run")
    other = impostor("127.0.0.1", port)
    until(lambda: any("Application startup complete" in line for line in server.log(100)), "it is not ready")
    heard = len(other.heard)
    until(lambda: len(other.heard) > heard + 3 or server.state != "starting", "nobody looks at him")
    assert server.state == "starting"
    assert set(other.heard) == {""}  # who listens is looked at before anything is sent
    assert manager.stop(grace=0.0).verified
    traces.check()


def test_one_that_is_gone_before_he_is_looked_at(manager, spec, traces):
    """No listener at all is to be found: so it was not ours, and is asked nothing."""
    port = free_port()
    server = manager.start(spec("tiny", "--port", str(port), faults={"hang_in": "load"}), wait=False).server
    until(lambda: any("Using max model len" in line for line in server.log(100)), "it has not begun")
    heard = []

    def listen_once() -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            connection = listener.accept()[0]
        with connection:
            heard.append(connection.recv(2**16))

    until(lambda: listen_once() or len(heard) > 3, "nobody looks at him")
    assert set(heard) == {b""}
    assert server.state == "starting"
    assert manager.stop(grace=0.0).verified
    traces.check()
