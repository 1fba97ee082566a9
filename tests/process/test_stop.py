"""The stop ladder on the stand-in: every way in which vLLM does not stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from fake_gpu import fakegpu

from vllm_magic import ledger
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.guard.client import Guards
from vllm_magic.guard.control_client import ControlClient
from vllm_magic.guard.record import Phase
from vllm_magic.linux import pidfd
from vllm_magic.linux.processes import Identity
from vllm_magic.recovery import remote_stop
from vllm_magic.release.result import Proof

# Above the promise of the README, so that a busy machine does not fail a test that found no fault.
SOON = 15.0


def start(manager, spec):
    return manager.start(spec, timeout=60).server


def open_streams(server, count: int) -> list[contextlib.ExitStack]:
    """Requests whose answers have begun and go on for minutes; each is to be closed."""
    streams = []
    for _ in range(count):
        client = httpx.Client(base_url=server.base_url, timeout=30)
        request = client.build_request(
            "POST",
            "/chat/completions",
            headers={"Authorization": f"Bearer {server.api_key}"},
            json={
                "model": server.model,
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 100_000,
                "stream": True,
            },
        )
        answer = client.send(request, stream=True)
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        streams.append(contextlib.ExitStack())
        streams[-1].callback(client.close)
        streams[-1].callback(lines.close)
    return streams


def test_an_idle_server_ends_by_itself_after_sigterm(manager, spec, traces):
    server = start(manager, spec())
    release = server.stop()
    assert release.exit_code == 0
    assert {process.how for process in release.ended} == {"SIGTERM", "by itself"}
    assert [process.how for process in release.ended if "serve" in process.name] == ["SIGTERM"]
    assert release.verified
    assert release.proof is Proof.PROCESSES
    assert server.state == "released"
    traces.check()


def test_open_streams_do_not_hold_it_up(manager, spec, traces):
    server = start(manager, spec(faults={"token_s": 0.05}))
    streams = open_streams(server, 4)
    release = server.stop()
    for stream in streams:
        stream.close()
    assert release.verified
    assert release.seconds < SOON
    assert release.exit_code == -9  # vLLM itself would have waited for ever
    traces.check()


def test_a_swallowed_sigterm_does_not_hold_it_up(manager, spec, traces):
    server = manager.start(spec(faults={"hang_in": "init"}), wait=False).server
    wait_until(lambda: any("EngineCor" in process.name for process in server.processes()))
    release = server.stop()
    assert release.verified
    assert release.seconds < SOON
    assert server.state == "released"
    traces.check()


def test_stop_while_it_imports(manager, spec, traces):
    server = manager.start(spec(faults={"hang_in": "import"}), wait=False).server
    wait_until(lambda: server.pid is not None)
    release = server.stop()
    assert (release.verified, release.exit_code) == (True, -15)
    traces.check()


def test_stop_at_once(manager, spec, traces):
    server = manager.start(spec(), wait=False).server
    assert server.stop().verified
    assert server.state == "released"
    with pytest.raises(StartFailed, match="was stopped"):
        server.wait()
    traces.check()


@pytest.mark.parametrize(
    "faults",
    [
        {"ignore_sigterm": True},
        {"ignore_sigterm_engine": True, "setpgrp": True},
        {"setsid_child": True, "daemonise": True},
        {"children": 200},
        {"fork_while_killed": True},
        {"ignore_sigterm": True, "fork_while_killed": True, "daemonise": True},
    ],
    ids=str,
)
def test_processes_that_do_not_want_to_end(manager, spec, traces, faults):
    server = start(manager, spec(faults=faults))
    before = len(server.processes())
    release = server.stop(grace=1.0)
    assert release.verified
    assert release.left == ()
    assert len(release.ended) >= before
    traces.check()


def test_grace_zero_kills_at_once(manager, spec, traces):
    server = start(manager, spec())
    release = server.stop(grace=0)
    assert {process.how for process in release.ended} <= {"SIGKILL", "by itself"}
    assert release.exit_code == -9
    assert release.verified
    traces.check()  # the shared memory that a killed server leaves is gone too


def test_drain_lets_requests_finish(manager, spec, traces):
    server = start(manager, spec(faults={"token_s": 0.05}))
    answers = []

    def ask() -> None:
        answers.append(
            httpx.post(
                f"{server.base_url}/chat/completions",
                headers={"Authorization": f"Bearer {server.api_key}"},
                json={
                    "model": server.model,
                    "messages": [{"role": "user", "content": "hi"}],
                    "max_tokens": 30,
                },
                timeout=60,
            )
        )

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: "num_requests_running" in metrics(server) and running(server) == 1)
    release = server.stop(drain=60)
    asking.join(30)
    assert [answer.status_code for answer in answers] == [200]
    assert release.exit_code == 0
    assert release.verified
    traces.check()


def test_drain_has_an_end(manager, spec, traces):
    server = start(manager, spec(faults={"token_s": 0.05}))
    streams = open_streams(server, 1)
    release = server.stop(drain=0.5)
    for stream in streams:
        stream.close()
    assert 0.5 < release.seconds < SOON
    traces.check()


def test_a_second_stop_waits_for_the_first(manager, spec, traces):
    server = start(manager, spec(faults={"exit_delay_s": 0.5}))
    releases = []
    threads = [threading.Thread(target=lambda: releases.append(server.stop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(releases) == 4
    assert all(release is releases[0] for release in releases)
    traces.check()


def test_a_stop_with_less_grace_hurries_the_first(manager, spec, traces):
    server = start(manager, spec(faults={"ignore_sigterm": True}))
    first = threading.Thread(target=lambda: server.stop(grace=600))
    first.start()
    wait_until(lambda: server.state == "stopping")
    release = server.stop(grace=0)
    first.join(60)
    assert not first.is_alive()
    assert release.verified
    traces.check()


def test_a_stop_from_elsewhere_has_its_whole_grace(manager, spec, probe, traces, monkeypatch):
    """This kernel, which nobody has asked, leaves the guards as much time as they were given."""
    monkeypatch.setattr("vllm_magic.lifecycle.state.GUARD_LIMIT", 1.0)
    server = start(manager, spec(faults={"exit_delay_s": 4.0}))
    (entry,) = ledger.entries()
    remote_stop.stop(entry, entry.record, probe, grace=60.0, patience=60.0)
    assert server._run.wait_over(60)
    assert (server.release.exit_code, server.release.verified) == (0, True)
    assert "SIGKILL" not in {process.how for process in server.release.ended}
    traces.check()


def stop_from_elsewhere(probe, grace: float) -> str:
    (entry,) = ledger.entries()
    return remote_stop.stop(entry, entry.record, probe, grace, grace).text


def test_a_stop_from_elsewhere_comes_before_the_kernel_says_that_the_server_is_ready(
    manager, spec, probe, traces, monkeypatch
):
    """The grace period goes on: only another stop, or an end of the kernel or of a guard, ends it."""
    is_stopping = threading.Event()
    report_ready = Guards.report_ready

    def report_late(guards: Guards) -> None:
        assert is_stopping.wait(60)
        report_ready(guards)

    monkeypatch.setattr(Guards, "report_ready", report_late)
    server = start(manager, spec(faults={"exit_delay_s": 2.0}))
    stopping = threading.Thread(target=lambda: stop_from_elsewhere(probe, 60.0))
    stopping.start()
    wait_until(lambda: ledger.entries()[0].record.phase == Phase.STOPPING)
    is_stopping.set()
    stopping.join(60)
    assert server._run.wait_over(60)
    assert (server.release.exit_code, server.release.verified) == (0, True)
    assert "SIGKILL" not in {process.how for process in server.release.ended}
    traces.check()


def test_a_stop_here_during_a_stop_from_elsewhere_cuts_no_grace(manager, spec, probe, traces):
    """Both grant the server more time than it needs."""
    server = start(manager, spec(faults={"exit_delay_s": 2.0}))
    elsewhere = threading.Thread(target=lambda: stop_from_elsewhere(probe, 60.0))
    elsewhere.start()
    wait_until(lambda: ledger.entries()[0].record.phase == Phase.STOPPING)
    release = server.stop(grace=60)
    elsewhere.join(60)
    assert (release.exit_code, release.verified) == (0, True)
    assert "SIGKILL" not in {process.how for process in release.ended}
    traces.check()


def test_a_stop_from_elsewhere_waits_for_a_release_that_has_begun(manager, spec, probe, traces, monkeypatch):
    """Its account is true, and the first stop keeps its grace: the guards are not taken for hung."""
    monkeypatch.setattr(remote_stop, "EXIT_LIMIT", 0.1)
    server = start(manager, spec(faults={"exit_delay_s": 2.0}))
    first = threading.Thread(target=lambda: server.stop(grace=60))
    first.start()
    wait_until(lambda: ledger.entries()[0].record.phase == Phase.STOPPING)
    text = stop_from_elsewhere(probe, 60.0)
    first.join(60)
    assert ": its release had begun before, proved by" in text
    assert (server.release.exit_code, server.release.verified) == (0, True)
    assert "SIGKILL" not in {process.how for process in server.release.ended}
    traces.check()


def test_several_stops_from_elsewhere_at_once(manager, spec, probe, traces, monkeypatch):
    """The guards accept some of the connections, and reset the others when they begin the release."""
    server = start(manager, spec(faults={"exit_delay_s": 2.0}))
    (entry,) = ledger.entries()
    inner = Identity(*entry.record.inner)
    sent = threading.Semaphore(0)

    class Client(ControlClient):
        def stop(self, grace: float, patience: float) -> None:
            super().stop(grace, patience)
            sent.release()

    monkeypatch.setattr(remote_stop, "ControlClient", Client)
    monkeypatch.setattr(remote_stop, "ANSWER_LIMIT", 60.0)
    texts: list[str] = []
    stops = [
        threading.Thread(target=lambda: texts.append(stop_from_elsewhere(probe, 60.0))) for _ in range(4)
    ]
    assert pidfd.send(inner, signal.SIGSTOP)
    for one in stops:
        one.start()
        assert sent.acquire(timeout=60)
    assert pidfd.send(inner, signal.SIGCONT)
    for one in stops:
        one.join(60)
    assert len(texts) == 4
    accounts = {re.sub(r"^tiny released in [\d.]+ s: ", "", text) for text in texts}
    assert all(re.match(r"\d+ processes ended|its release had begun before", text) for text in accounts)
    assert server._run.wait_over(60)
    assert (server.release.exit_code, server.release.verified) == (0, True)
    assert "SIGKILL" not in {process.how for process in server.release.ended}
    traces.check()


def test_start_stop_start_at_once(manager, spec, traces):
    one, other = spec("one"), spec("two", port=None)
    for wanted in (one, other, one):
        server = start(manager, wanted)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert manager.stop(wanted.name).verified
    traces.check()


@pytest.mark.usefixtures("patient")
def test_twenty_cycles_with_vram(manager, spec, traces, fake_gpus):
    """Each release proved by the memory itself; after the last one the machine is as it was."""
    baseline = [gpu.used for gpu in manager.gpus().gpus]
    for _ in range(20):
        server = start(manager, spec())
        release = server.stop()
        assert release.verified
        assert release.proof is Proof.NVML_MEMORY
        assert [gpu.freed for gpu in release.vram] == [2 * 2**30]
    assert [gpu.used for gpu in manager.gpus().gpus] == baseline
    traces.check()


def test_gpus_that_share_a_uuid(manager, spec, traces, fake_gpus):
    """They share a lock too, which keeps no start from its own GPU."""
    fakegpu.configure(fake_gpus, same_uuid=1)
    for _ in range(2):
        release = start(manager, spec()).stop()
        assert (release.verified, release.proof) == (True, Proof.NVML_MEMORY)
        assert [gpu.index for gpu in release.vram] == [0]
    with pytest.raises(InvalidOption, match="several GPUs have the UUID"):
        manager.start(spec(gpus="1"))
    traces.check()


def metrics(server) -> str:
    return httpx.get(f"{server.url}/metrics").text


def running(server) -> int:
    lines = [line for line in metrics(server).splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(int(float(line.split()[-1])) for line in lines)


def wait_until(condition, limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "younger"),
    [("model-{}.safetensors", False), ("h6-{}.parquet", True), ("vllm_{}", True), ("vllm_{}", False)],
)
def test_what_it_only_reads_in_shared_memory_stays(manager, spec, traces, name, younger):
    """Others made it, before or after the server's start, and the server maps it as vLLM maps weights."""
    weights = Path("/dev/shm", name.format(os.getpid()))
    weights.touch(mode=0o600)
    weights.write_bytes(b"x" * 4096)
    if younger:  # than the server, which finds it there
        later = time.time() + 3600
        os.utime(weights, (later, later))
    try:
        server = manager.start(spec(faults={"maps": str(weights)}), timeout=60).server
        inode = f" {weights.stat().st_ino} "
        assert any(inode in Path(f"/proc/{one.identity.pid}/maps").read_text() for one in server.processes())
        assert server.stop().verified
        assert weights.exists()
    finally:
        weights.unlink(missing_ok=True)
    traces.check()


@pytest.mark.parametrize("time_given", [1e10, float("inf")])
def test_more_patience_than_poll_can_count(manager, spec, traces, time_given):
    """An idle server ends at once all the same."""
    server = start(manager, spec())
    assert server.stop(grace=time_given, drain=time_given).verified
    traces.check()


def test_a_disk_that_hangs_does_not_hold_a_stop_up(manager, spec, monkeypatch, traces):
    """The one of the state folder, which is asked whether it is full when a server ends."""
    answers, gave_up = threading.Event(), threading.Event()

    def hang() -> str:
        if not answers.wait(60):
            gave_up.set()
        return ""

    monkeypatch.setattr(ledger, "full_disk", hang)
    server = manager.start(spec()).server
    assert server.stop().verified
    assert not gave_up.is_set()
    answers.set()
    traces.check()
