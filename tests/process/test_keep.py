"""Kept servers, which outlive their kernel for a while, and the kernels that take them over."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import by_hand
import httpx
import pytest
from matrix.resources import fill, small_disk

from vllm_magic import ledger
from vllm_magic.doctor import survey, text
from vllm_magic.errors import NameInUse, ServerNotFound, StartFailed
from vllm_magic.guard import record as records
from vllm_magic.guard.control_client import ControlClient
from vllm_magic.guard.record import Phase
from vllm_magic.ledger import Condition
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.manager import switching
from vllm_magic.recovery import kept_servers

LIMIT = 20.0

FIRST_KERNEL = """
import json, os, sys
import vllm_magic
server = vllm_magic.start("tiny", *json.loads(sys.argv[1]), keep=float(sys.argv[2]))
print(json.dumps([server.pid, server.url, server.api_key]), flush=True)
sys.stdin.readline()
"""


class FirstKernel:
    """A process that starts a server to be kept, and dies."""

    def __init__(self, executable: str, keep: float, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FIRST_KERNEL, json.dumps(args), str(keep)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "VLLM_MAGIC_EXECUTABLE": executable},
        )
        self.pid, self.url, self.key = json.loads(self.process.stdout.readline())
        table = processes.table()
        below = processes.descendants(table, self.process.pid)
        self.server = {table[pid].identity for pid in below if table[pid].alive}

    def die(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.communicate()

    def end(self) -> None:
        """End the kernel normally, so that atexit runs."""
        self.process.communicate("\n")


@pytest.fixture
def first(executable, home):
    started = []

    def start(keep: float, *args: str) -> FirstKernel:
        kernel = FirstKernel(executable, keep, *args)
        started.append(kernel)
        return kernel

    yield start
    for kernel in started:
        kernel.process.kill()
        kernel.process.communicate()
        for identity in kernel.server:
            pidfd.send(identity, signal.SIGKILL)


def condition_of_the_only_one() -> Condition:
    (entry,) = ledger.entries()
    return entry.condition


def wait_until(condition, limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_served(url: str, key: str) -> bool:
    answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    return answer.status_code == httpx.codes.OK


@pytest.mark.parametrize("death", ["SIGKILL", "a clean end"])
def test_a_kept_server_is_taken_over(first, manager, traces, death):
    kernel = first(60)
    assert condition_of_the_only_one() is Condition.OWNED
    kernel.end() if death == "a clean end" else kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    assert is_served(kernel.url, kernel.key)
    server = manager.attach()
    assert (server.pid, server.url, server.api_key) == (kernel.pid, kernel.url, kernel.key)
    assert server.state == "ready"
    assert condition_of_the_only_one() is Condition.OWNED
    assert manager.servers() == {"tiny": server}
    release = server.stop()
    assert release.verified
    assert {one.pid for one in release.ended} >= {kernel.pid}
    assert pidfd.wait_for_all(kernel.server, LIMIT) == set()
    traces.check()


SECOND_KERNEL = """
import sys
import vllm_magic
from vllm_magic.errors import VllmMagicError
print("here", flush=True)
sys.stdin.readline()
try:
    print("got it", vllm_magic.attach("tiny").pid, flush=True)
except VllmMagicError as error:
    print("refused", error, flush=True)
sys.stdin.readline()
"""


def test_only_one_of_several_kernels_takes_it_over(first, manager, traces):
    kernel = first(60)
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SECOND_KERNEL],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for other in others:
            stack.callback(other.kill)
            assert other.stdout.readline() == "here\n"
        for other in others:
            other.stdin.write("\n")
            other.stdin.flush()
        said = sorted(other.stdout.readline() for other in others)
        assert said[0] == f"got it {kernel.pid}\n"
        assert all(line.startswith("refused") for line in said[1:])
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    assert is_served(kernel.url, kernel.key)
    assert manager.attach("tiny").stop().verified
    traces.check()


def test_a_kept_server_is_released_after_its_time(first, traces):
    """After this time the guards release it."""
    kernel = first(1.0)
    kernel.die()
    assert pidfd.wait_for_all(kernel.server, LIMIT) == set()
    wait_until(lambda: not ledger.entries())
    traces.check()


def test_a_start_with_the_same_spec_takes_it_over(first, manager, spec, traces, executable, monkeypatch):
    kernel = first(60, "--max-model-len", "512")
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    start = manager.start(spec("tiny", "--max-model-len", "512", keep=60.0, executable=None), timeout=60)
    assert start.reused
    assert start.server.pid == kernel.pid
    assert start.server.stop().verified
    traces.check()


def test_a_start_with_another_spec_does_not_take_it_over(first, manager, spec, traces):
    kernel = first(60)
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    start = manager.start(spec("tiny", "--max-model-len", "512", keep=60.0), timeout=60)
    assert not start.reused
    assert start.server.pid != kernel.pid
    assert is_served(kernel.url, kernel.key)
    with pytest.raises(NameInUse, match="A server of this kernel is called tiny"):
        manager.attach("tiny")
    assert start.server.stop().verified
    assert manager.attach("tiny").stop().verified
    traces.check()


def test_a_server_whose_kernel_lives_cannot_be_attached(first, manager):
    first(60)
    with pytest.raises(ServerNotFound, match="No server waits for a kernel"):
        manager.attach()
    (entry,) = ledger.entries()
    with pytest.raises(ServerNotFound, match="the kernel that it belongs to lives"):
        kept_servers.take(entry)


def test_a_record_that_names_another_process_as_guard(first, manager, traces):
    """A record can be edited, and a guard that does not end is killed."""
    first(60).die()

    def is_written() -> bool:  # the guard writes the record once more, after its kernel's end
        (entry,) = ledger.entries()
        return entry.record.phase == Phase.KEPT

    wait_until(is_written)
    (entry,) = ledger.entries()
    with by_hand.bystander() as other:
        records.write(str(entry.path), entry.record._replace(outer=list(by_hand.identity(other.pid))))
        with pytest.raises(ServerNotFound, match=f"pid {other.pid} is none of its guards"):
            manager.attach()
        records.write(str(entry.path), entry.record)
        manager.attach().stop()
        assert other.poll() is None
    traces.check()


def test_several_kept_servers_of_one_name(first, manager, traces):
    kernels = [first(60), first(60)]
    for kernel in kernels:
        kernel.die()
    wait_until(lambda: [entry.condition for entry in ledger.entries()] == [Condition.KEPT] * 2)
    with pytest.raises(ServerNotFound, match="Which one"):
        manager.attach("tiny")
    with pytest.raises(ServerNotFound, match="No server called other waits"):
        manager.attach("other")
    for entry in ledger.entries():
        assert manager.attach(entry.id).stop().verified
    traces.check()


def test_it_outlives_a_second_kernel_too(first, home, executable, traces):
    """The time begins again at the end of the second kernel."""
    kernel = first(60)
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    second = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import vllm_magic; s = vllm_magic.attach(); print(s.pid, flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(second.stdout.readline()) == kernel.pid
    assert condition_of_the_only_one() is Condition.OWNED
    second.kill()
    second.communicate()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    (entry,) = ledger.entries()
    client = ControlClient(entry.path)
    client.stop(grace=5.0, patience=2.5)
    assert pidfd.wait_for_all(kernel.server, LIMIT) == set()
    client.close()
    wait_until(lambda: not ledger.entries())
    traces.check()


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_clock_is_set_while_it_waits(first, manager, traces, monkeypatch, hours):
    """The guards use another clock, so the server waits as long as before."""
    kernel = first(600)
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    assert condition_of_the_only_one() is Condition.KEPT
    (seen,) = survey.servers()
    assert re.fullmatch(r"kept (10 min|9 min \d+ s) more for a new kernel", text.state(seen))
    wait_until(lambda: ledger.entries()[0].record.kept_until is not None)  # its guards write it in a moment
    (line,) = kept_servers.notices()
    until = re.search(r"until (\d\d:\d\d:\d\d)", line)[1]
    assert until in {time.strftime("%H:%M:%S", time.localtime(time.time() + 600 - ago)) for ago in range(60)}
    assert manager.attach().pid == kernel.pid
    assert manager.stop().verified
    traces.check()


@pytest.mark.parametrize("victim", ["leader", "outer", "inner"])
@pytest.mark.parametrize("when", ["kept", "attached"])
def test_a_guard_or_leader_dies_after_the_kernel(first, manager, traces, victim, when):
    kernel = first(60)
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    server = manager.attach() if when == "attached" else None
    (entry,) = ledger.entries()
    assert pidfd.send(Identity(*getattr(entry.record, victim)), signal.SIGKILL)
    assert pidfd.wait_for_all(kernel.server, LIMIT) == set()
    if server is not None:
        assert server._run.wait_over(LIMIT)
        assert server.release.verified
    wait_until(lambda: not ledger.entries())
    traces.check()


def test_a_stopped_inner_guard_does_not_keep_it_for_ever(first, traces, monkeypatch):
    kernel = first(1.0)
    (entry,) = ledger.entries()
    inner = Identity(*entry.record.inner)
    assert pidfd.send(inner, signal.SIGSTOP)
    kernel.die()
    assert pidfd.wait_for_all(kernel.server, LIMIT) == set()
    wait_until(lambda: not ledger.entries())
    traces.check()


def test_a_server_that_is_still_starting_is_kept_too(executable, home, manager, monkeypatch, traces):
    program = (
        "import sys, time, vllm_magic\n"
        "s = vllm_magic.start('tiny', keep=60, wait=False, env={'STAND_IN': '{\"hang_in\": \"init\"}'})\n"
        "while not s.pid and not s.state.over: time.sleep(0.01)\n"
        "print(s.pid, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "VLLM_MAGIC_EXECUTABLE": executable},
    )
    leader = int(process.stdout.readline())
    process.kill()
    process.communicate()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    (entry,) = ledger.entries()
    server = manager._attach(kept_servers.take(entry))
    assert server.state == "starting"

    def engine() -> list[int]:
        return [one.identity.pid for one in server.processes() if "Engine" in one.name]

    wait_until(engine)
    wait_until(lambda: "Initializing" in Path(server.log_path).read_text())
    time.sleep(0.5)
    os.kill(engine()[0], signal.SIGUSR1)
    server.wait(60)
    assert server.pid == leader
    assert server.stop().verified
    traces.check()


def test_a_new_kernel_is_told_about_a_kept_server(first, manager):
    first(60).die()
    wait_until(lambda: ledger.entries()[0].record.phase == Phase.KEPT)
    manager.sweep()
    (line,) = manager.news()
    assert line.startswith("tiny outlived its kernel, and waits until ")
    assert line.endswith(": %vllm attach tiny takes it over.")
    assert manager.waiting() == [line]
    manager.attach().stop()
    assert manager.waiting() == []


def test_an_attached_server_is_not_reported_again(first, manager):
    first(60).die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    manager.sweep()
    manager.attach().stop()
    assert manager.news() == []


def test_the_error_of_a_stop_mentions_the_kept_server(first, manager):
    first(60).die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    for name in ("tiny", None):
        with pytest.raises(ServerNotFound, match=r'vllm_magic\.attach\("tiny"\) takes it over\.$'):
            manager.stop(name)
    with pytest.raises(ServerNotFound, match=r'none runs\. Start one with vllm_magic\.start\("MODEL"\)\.$'):
        manager.stop("other")
    manager.attach().stop()


def test_a_disk_that_is_full(first, home, manager, traces):
    """The guards cannot write the new phase, and the server can be attached all the same."""
    with small_disk(home):
        kernel = first(60)
        by_hand.until_ready(kernel.process.pid)
        fill(home)
        kernel.die()
        wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
        (line,) = manager.waiting()
        assert line == "tiny outlived its kernel, and waits for another one: %vllm attach tiny takes it over."
        (home / "full").unlink()
        server = manager.attach()
        assert server.pid == kernel.pid
        assert server.stop().verified
    traces.check()


LATER_KERNEL = """
import sys, vllm_magic
from vllm_magic.provisioning import serialization
pack = serialization.pack_spec
serialization.pack_spec = lambda spec: {**pack(spec), "colour": "blue"}
print(vllm_magic.start("tiny", keep=60).pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def later(home, executable):
    """The leader of a kept server that a later version has started."""
    env = {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable}
    with subprocess.Popen(
        [sys.executable, "-c", LATER_KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as kernel:
        leader = processes.read(int(kernel.stdout.readline())).identity
        kernel.kill()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    yield leader
    pidfd.send(leader, signal.SIGKILL)
    wait_until(lambda: not ledger.entries())


def test_a_server_of_another_version_stays_kept(later, manager):
    """A server that this kernel cannot unpack must not belong to this kernel."""
    with pytest.raises(ServerNotFound, match="another version of vllm_magic has started it") as failed:
        manager.attach()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    assert processes.is_alive(later)
    assert failed.value


def test_a_server_stays_kept_if_no_thread_can_be_started(first, manager, monkeypatch):
    kernel = first(60)
    kernel.die()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        with pytest.raises(StartFailed) as failed:
            manager.attach()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    assert manager.attach().pid == kernel.pid
    assert failed.value


ASLEEP = """
import sys
import vllm_magic
from vllm_magic.engine.client.health import Api
server = vllm_magic.start("tiny", "--enable-sleep-mode", keep=60.0)
if sys.argv[1] != "0":
    print(server.sleep(level=int(sys.argv[1])).text)
if sys.argv[2] == "half awake":
    Api(server._run.command.endpoint, lambda: None).post("/wake_up")
print(server.pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["asleep", "half awake"])
@pytest.mark.parametrize(("level", "after"), [(1, ["/wake_up"]), (2, ["/wake_up", "/collective_rpc"])])
def test_one_that_sleeps_is_known_to(
    executable, fake_gpus, manager, spec, traces, monkeypatch, level, after, how
):
    """The new kernel also knows the level, since it must load the weights again after level 2."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    kernel = [sys.executable, "-c", ASLEEP, str(level), how]
    with subprocess.Popen(kernel, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first_kernel:
        while not first_kernel.stdout.readline().strip().isdigit():
            assert first_kernel.poll() is None
        first_kernel.kill()
    wait_until(lambda: condition_of_the_only_one() is Condition.KEPT)
    server = manager.attach()
    assert server.asleep == (level if how == "asleep" or level == 2 else 0)
    before = len(server.log(400))
    done = switching.switch(manager, server.spec, timeout=60).done
    if server_sleeps := how == "asleep" or level == 2:
        asked = [line for line in server.log(400)[before:] if '"POST ' in line]
        assert len(asked) == (1 if level == 1 else 3)
        assert all(path in line for path, line in zip(after, asked, strict=False))
    assert len(done) == int(server_sleeps)
    assert server.asleep == 0
    assert server.stop().verified
    traces.check()
