"""`--ttl`: a server that nobody asks for anything is released, and no other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import httpx
import pytest

from vllm_magic.errors import ServerNotFound
from vllm_magic.lifecycle import idle_timeout
from vllm_magic.linux import connections


def ask(server) -> None:
    answer = httpx.post(
        f"{server.base_url}/completions",
        headers={"Authorization": f"Bearer {server.api_key}"},
        json={"model": server.model, "prompt": "hello", "max_tokens": 2},
        timeout=30,
    )
    assert answer.status_code == 200


class TestServer:
    def test_one_that_is_left_alone_is_released(self, manager, spec, traces):
        server = manager.start(spec(ttl=1.5), timeout=60).server
        assert server._run.wait_over(60)
        assert (server.state, server.error) == ("released", None)
        assert (server.release.why, server.release.verified) == ("idle", True)
        assert server.status.seconds - server.ready_after >= 1.5
        assert server.status.idle_release == "released after 1.5 s without a request"
        assert manager.servers() == {}
        assert manager.idle_releases() == ["tiny was released after 1.5 s without a request."]
        with pytest.raises(ServerNotFound, match=r"tiny was released after 1\.5 s without a request\."):
            manager.get("tiny")
        traces.check()

    def test_health_checks_and_looks_at_the_counters_are_no_use(self, manager, spec):
        server = manager.start(spec(ttl=2.0), timeout=60).server
        over = threading.Event()

        def poll() -> None:
            while not over.wait(0.1):
                try:
                    httpx.get(f"{server.url}/health")
                    httpx.get(f"{server.url}/metrics")
                except httpx.HTTPError:
                    return

        polling = threading.Thread(target=poll)
        polling.start()
        try:
            assert server._run.wait_over(60)
        finally:
            over.set()
            polling.join(30)
        assert server.release.why == "idle"

    def test_a_long_answer_is_not_cut(self, manager, spec):
        server = manager.start(spec(ttl=1.0, faults={"token_s": 2.0}), timeout=60).server
        ask(server)  # two tokens: 4 s
        assert server.state == "ready"

    def test_one_that_does_not_answer_is_not_idle(self, manager, spec):
        server = manager.start(spec(ttl=2.0), timeout=60).server
        os.kill(server.pid, signal.SIGSTOP)
        try:
            time.sleep(5)
            assert server.state == "ready"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert server._run.wait_over(60)
        assert server.release.why == "idle"

    def test_a_stop_before_is_a_stop(self, manager, spec):
        server = manager.start(spec(ttl=600.0), timeout=60).server
        release = server.stop()
        assert release.why == "asked"
        assert (server.status.idle_release, manager.idle_releases()) == ("", [])

    def test_no_connection_stays_open_between_looks(self, manager, spec):
        """It would hold a stopping vLLM up."""
        server = manager.start(spec(ttl=600.0), timeout=60).server
        time.sleep(1.5)  # the first look is over
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        inodes = {link[8:-1] for link in links if link.startswith("socket:")}
        with open("/proc/net/tcp") as file:
            rows = [line.split() for line in file][1:]
        there = f":{server.port:04X}"
        assert not [row for row in rows if row[2].endswith(there) and row[9] in inodes]

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_request_that_is_not_counted_yet(self, manager, spec, stream):
        """As in one long step of vLLM's engine: the counters are those from before it."""
        server = manager.start(spec(ttl=1.5, faults={"token_s": LONG, "late_counters": True})).server
        said = Request(server, stream=stream)
        assert said.wait(60)
        assert said.status == 200
        assert said.text.count("word0") == 1
        assert server._run.wait_over(60)
        assert server.release.why == "idle"

    @pytest.mark.parametrize("stream", [True, False])
    def test_nor_does_a_drain_cut_it(self, manager, spec, stream):
        server = manager.start(spec(faults={"token_s": 3.0, "late_counters": True})).server
        said = Request(server, stream=stream)
        # A look at the counters is shorter.
        wait_until(lambda: any(one.received > 150 for one in connections.established(server.port)))
        release = server.stop(drain=60)
        assert said.wait(60)
        assert said.text.count("word0") == 1
        assert release.verified

    def test_the_half_of_a_request_keeps_it_for_a_limited_time(self, manager, spec, monkeypatch, traces):
        """Nobody needs the key for that: any program of this machine can send it."""
        monkeypatch.setattr(idle_timeout, "WAIT_LIMIT", 5.0)
        server = manager.start(spec(ttl=1.0), timeout=60).server
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
            )
            sent = time.monotonic()
            assert server._run.wait_over(60)
            assert time.monotonic() - sent >= 5.0  # it did count, until the limit
        assert (server.release.why, server.release.verified) == ("idle", True)
        traces.check()

    def test_a_few_bytes_that_are_no_request_do_not_keep_it(self, manager, spec, traces):
        server = manager.start(spec(ttl=1.0), timeout=60).server
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST ")
            assert server._run.wait_over(60)
        assert (server.release.why, server.release.verified) == ("idle", True)
        traces.check()

    @pytest.mark.parametrize("polls", [True, False])
    def test_a_connection_that_is_kept_open_is_no_use(self, manager, spec, polls):
        server = manager.start(spec(ttl=1.5)).server
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.get("/health").status_code == 200
            while polls and server.state == "ready":
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/health")
                time.sleep(0.2)
            assert server._run.wait_over(60)
        assert server.release.why == "idle"

    def test_it_can_be_started_again(self, manager, spec):
        assert manager.start(spec(ttl=1.0), timeout=60).server._run.wait_over(60)
        again = manager.start(spec(ttl=600.0), timeout=60)
        assert (again.reused, again.server.state) == (False, "ready")
        assert manager.idle_releases() == []


LONG = (
    8.0  # seconds; longer than an idle connection is left open, and than the servers live without a request
)


class Request(threading.Event):
    """A request for one token; set when it is answered, or cut."""

    def __init__(self, server, *, stream: bool) -> None:
        super().__init__()
        self.status, self.text = 0, ""
        threading.Thread(target=self._ask, args=(server, stream), daemon=True).start()

    def _ask(self, server, stream: bool) -> None:
        body = {"model": server.model, "prompt": "hello", "max_tokens": 1, "stream": stream}
        try:
            answer = httpx.post(
                f"{server.base_url}/completions",
                headers={"Authorization": f"Bearer {server.api_key}"},
                json=body,
                timeout=60,
            )
            self.status, self.text = answer.status_code, answer.text
        except httpx.HTTPError as error:
            self.text = str(error)
        self.set()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
