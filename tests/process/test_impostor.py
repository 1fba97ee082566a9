"""Another user who answers on the port of a server: he is not taken for it, and gets no key and no prompt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from by_hand import free_port, until

from vllm_magic import ledger
from vllm_magic.children import benchmark
from vllm_magic.errors import RequestFailed
from vllm_magic.linux import sockets

PROGRAM = Path(__file__).with_name("impostor.py")
_real = socket.getaddrinfo


class Impostor:
    """The process of another user that listens at this address, and answers this; `heard` is what he was asked."""

    def __init__(self, address: str, port: int, body: str) -> None:
        nobody = str(pwd.getpwnam("nobody").pw_uid)
        self.heard: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, nobody, address, str(port), body], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "listens\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        self.heard += map(json.loads, self.process.stdout)

    def end(self) -> None:
        """End him, and read all that he heard; a second call does nothing."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()


@pytest.fixture
def impostor():
    """Has another user listen: ``impostor(address, port, body)``."""
    if os.getuid() != 0:
        pytest.fail("Only root can become another user: run this as root (CI does)")
    with contextlib.ExitStack() as stack:

        def listen(address: str, port: int, body: str = "{}") -> Impostor:
            made = Impostor(address, port, body)
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
    assert not server.status.exposed
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


def ways_to_ask(server) -> list:
    """All that sends something to a server; two clients have a connection that is kept."""
    client, async_client = server.client(), server.async_client()
    loop = asyncio.new_event_loop()

    async def models() -> None:
        await async_client.models.list()

    client.models.list()
    loop.run_until_complete(models())

    async def close() -> None:
        await async_client.close()

    def end() -> None:
        client.close()
        loop.run_until_complete(close())
        loop.close()

    return [
        end,
        lambda: server.chat("my secret"),
        lambda: next(iter(server.complete("my secret", stream=True))),
        lambda: server.embed("my secret"),
        lambda: server.score("my secret", ["x"]),
        lambda: server.classify("my secret"),
        lambda: server.load_lora("my-secret", "/"),
        server.loras,
        server.metrics,
        server.bench,
        lambda: client.completions.create(model="tiny", prompt="my secret"),
        lambda: loop.run_until_complete(models()),
    ]


def all_refused(ways, match: str) -> None:
    for ask in ways:
        with pytest.raises(RequestFailed, match=match) as caught:
            ask()
        assert "\n" not in str(caught.value)


def until_free(server) -> None:
    until(lambda: sockets._nearest("127.0.0.1", server.port) == [], "its port is not free")


@pytest.fixture
def frozen_guards():
    """Stops the guards of the only server there is, so that nobody says that it has ended."""
    guards = []

    def freeze() -> None:
        (entry,) = ledger.entries()
        guards.extend((entry.record.outer[0], entry.record.inner[0]))
        for pid in guards:
            os.kill(pid, signal.SIGSTOP)

    yield freeze
    for pid in guards:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_one_that_has_the_port_of_a_server_that_was_killed(manager, spec, impostor, frozen_guards, traces):
    """That it is ready is what the guards said last."""
    server = manager.start(spec("tiny"), timeout=60).server
    end, *ways = ways_to_ask(server)
    frozen_guards()
    os.kill(server.pid, signal.SIGKILL)
    until_free(server)
    assert server.state == "ready"
    other = impostor("127.0.0.1", server.port)
    all_refused(ways, r"tiny has ended, so nothing was sent\. .*vllm_magic\.start\(\.\.\.\)")
    end()
    for pid in (ledger.entries()[0].record.outer[0], ledger.entries()[0].record.inner[0]):
        os.kill(pid, signal.SIGCONT)
    assert manager.stop().verified
    other.end()
    assert set(other.heard) <= {""}
    traces.check()


def test_one_that_has_the_port_of_a_server_that_ends(manager, spec, impostor, traces):
    """Somebody has sent it SIGTERM: it closes its port at once, and its engine takes time."""
    server = manager.start(spec("tiny", faults={"exit_delay_s": 600.0}), timeout=60).server
    end, *ways = ways_to_ask(server)
    os.kill(server.pid, signal.SIGTERM)
    until_free(server)
    other = impostor("127.0.0.1", server.port)
    assert server.state == "ready"
    all_refused(ways, f"tiny does not listen on port {server.port} any more, so nothing was sent")
    end()
    assert manager.stop(grace=0.0).verified
    other.end()
    assert set(other.heard) <= {""}
    traces.check()


IDLE = """
vllm:num_requests_running{engine="0"} 0.0
vllm:num_requests_waiting{engine="0"} 0.0
vllm:prompt_tokens_total{engine="0"} 0.0
vllm:generation_tokens_total{engine="0"} 0.0
vllm:request_success_total{engine="0"} 0.0
"""


def test_one_who_says_that_nobody_uses_the_server(manager, spec, impostor, traces):
    """Neither what stops idle servers nor what samples them asks him."""
    server = manager.start(spec("tiny", ttl=20.0, faults={"exit_delay_s": 600.0}), timeout=60).server
    os.kill(server.pid, signal.SIGTERM)
    until_free(server)
    os.kill(server.pid, signal.SIGSTOP)  # so that it has not ended yet
    other = impostor("127.0.0.1", server.port, IDLE)
    until(lambda: len(other.heard) > 8 or server.state != "ready", "nobody looks at him")
    assert server.state == "ready"
    assert manager.stop(grace=0.0).verified
    other.end()
    assert set(other.heard) == {""}
    traces.check()


def test_one_who_says_that_the_server_sleeps(manager, spec, impostor, traces):
    wanted = spec("tiny", "--enable-sleep-mode", faults={"exit_delay_s": 600.0})
    server = manager.start(wanted, timeout=60).server
    assert not server._run.sleep_mode.is_asleep()
    os.kill(server.pid, signal.SIGTERM)
    until_free(server)
    other = impostor("127.0.0.1", server.port, '{"is_sleeping": true}')
    assert not server._run.sleep_mode.is_asleep()
    assert server.asleep == 0
    assert manager.stop(grace=0.0).verified
    other.end()
    assert set(other.heard) <= {""}
    traces.check()


def test_a_benchmark_ends_with_its_server(manager, spec, executable, tmp_path, impostor, traces):
    """Its program has the key, and sends it to whoever listens."""
    begun, wrapper = tmp_path / "begun", tmp_path / "vllm"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = bench ] || exec {executable} "$@"\necho $$ > {begun}.new\n'
        f"mv {begun}.new {begun}\nexec sleep 600\n"
    )
    wrapper.chmod(0o755)
    wanted = spec("tiny", executable=str(wrapper), faults={"exit_delay_s": 600.0})
    server = manager.start(wanted, timeout=60).server
    came = []

    def measure() -> None:
        try:
            server.bench()
        except RequestFailed as error:
            came.append(str(error))

    thread = threading.Thread(target=measure)
    thread.start()
    until(begun.exists, "it has not begun")
    os.kill(server.pid, signal.SIGTERM)
    thread.join(60)
    assert "does not listen on port" in came[0]
    until(lambda: not Path(f"/proc/{begun.read_text().strip()}").exists(), "it lives on")
    assert manager.stop(grace=0.0).verified
    traces.check()


def test_a_benchmark_ends_with_its_server_before_anybody_looks(
    manager, spec, executable, tmp_path, frozen_guards, monkeypatch, traces
):
    """Whoever binds the port of a server that was killed waits for no look of ours."""
    begun, wrapper = tmp_path / "begun", tmp_path / "vllm"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = bench ] || exec {executable} "$@"\necho $$ > {begun}.new\n'
        f"mv {begun}.new {begun}\nexec sleep 600\n"
    )
    wrapper.chmod(0o755)
    server = manager.start(spec("tiny", executable=str(wrapper)), timeout=60).server
    monkeypatch.setattr(benchmark, "CHECK_INTERVAL", 600.0)
    came = []

    def measure() -> None:
        try:
            server.bench()
        except RequestFailed as error:
            came.append(str(error))

    thread = threading.Thread(target=measure)
    thread.start()
    until(begun.exists, "it has not begun")
    frozen_guards()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{begun.read_text().strip()}").exists(), "it lives on")
    thread.join(60)
    assert "tiny has ended" in came[0]
    for pid in (ledger.entries()[0].record.outer[0], ledger.entries()[0].record.inner[0]):
        os.kill(pid, signal.SIGCONT)
    assert manager.stop().verified
    traces.check()


FORKED = """
import os, sys, vllm_magic
from vllm_magic.errors import VllmMagicError
server = vllm_magic.start("tiny")
client = server.client()
client.models.list()
go, went = os.pipe()
child = os.fork()
if child == 0:
    os.read(go, 1)
    for call in (lambda: server.chat("my secret"), client.models.list, server.client, server._run.wait_over,
                 server.wait, server._run.wait_released, server.stop, server.sleep, server.wake):
        try:
            print("no error", call(), flush=True)
        except VllmMagicError as error:
            print(type(error).__name__, error, flush=True)
    os._exit(0)
print(server.stop().verified, server.port, flush=True)
sys.stdin.readline()
os.write(went, b"x")
os.waitpid(child, 0)
"""


def test_a_forked_process_sends_nothing_to_him(home, executable, impostor, monkeypatch, traces):
    """It never hears that the server has ended: no thread that follows it was forked."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    with subprocess.Popen(
        [sys.executable, "-c", FORKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as kernel:
        verified, port = kernel.stdout.readline().split()
        assert verified == "True"
        other = impostor("127.0.0.1", int(port))
        said = kernel.communicate("\n", timeout=120)[0].splitlines()
    asked, listed, made, *waited = said
    assert asked.startswith("RequestFailed tiny has ended, so nothing was sent")
    assert listed.startswith("RequestFailed tiny has ended, so nothing was sent")
    assert made.startswith("no error <openai")
    assert len(waited) == 6
    for line in waited:
        assert line.startswith(
            "VllmMagicError This is a forked process, and tiny belongs to its parent process"
        )
    other.end()
    assert set(other.heard) <= {""}
    traces.check()
