"""Names, second starts, waiting, interrupts: what the manager promises."""

from __future__ import annotations

import _thread
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import vllm_magic
from vllm_magic import api
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import (
    InvalidOption,
    NameInUse,
    ServerNotFound,
    StartFailed,
    StartInterrupted,
    StartTimeout,
    VllmMagicError,
)
from vllm_magic.provisioning import choose
from vllm_magic.provisioning.local import LocalProvisioner
from vllm_magic.server.server import Server, run_of

LIMIT = 30.0  # seconds for a release on a busy machine


def test_the_same_spec_again_is_the_running_server(manager, spec, traces):
    first = manager.start(spec(), timeout=60)
    again = manager.start(spec(), timeout=60)
    assert (first.reused, again.reused) == (False, True)
    assert again.server is first.server
    manager.stop("tiny")
    traces.check()


def test_the_same_spec_while_it_starts_is_waited_for(manager, spec):
    manager.start(spec(faults={"import_s": 1.0}), wait=False)
    again = manager.start(spec(faults={"import_s": 1.0}), timeout=60)
    assert again.reused
    assert again.server.state == "ready"


def test_two_threads_start_the_same_spec(manager, spec):
    with ThreadPoolExecutor(8) as pool:
        starts = list(pool.map(lambda _: manager.start(spec(), timeout=60), range(8)))
    assert len({id(start.server) for start in starts}) == 1
    assert [start.reused for start in starts].count(False) == 1


def test_the_same_name_with_another_spec_says_how_to_proceed(manager, spec):
    server = manager.start(spec(), timeout=60).server
    with pytest.raises(NameInUse, match=r'vllm_magic\.stop\("tiny"\).*name="NAME"'):
        manager.start(spec("tiny", "--max-model-len", "128"))
    assert server.state == "ready"


def test_a_start_that_cannot_succeed_is_refused_before_its_name(manager, spec):
    """Otherwise the user stops the running server for it."""
    server = manager.start(spec(), timeout=60).server
    for refuse in (manager.start, manager.check):
        with pytest.raises(StartFailed, match=r"/no/such/folder is not there"):
            refuse(spec("/no/such/folder", name="tiny"))
    assert server.state == "ready"


def test_a_start_waits_for_a_stop_under_the_same_name(manager, spec, traces):
    server = manager.start(spec(faults={"exit_delay_s": 1.0}), timeout=60).server
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    while server.state == "ready":
        time.sleep(0.01)
    other = manager.start(spec("tiny", "--max-model-len", "128"), timeout=60).server
    assert server.state == "released"
    assert other.state == "ready"
    stopping.join(30)
    manager.stop_all()
    traces.check()


def test_several_servers_side_by_side(manager, spec, traces):
    servers = [manager.start(spec(name=f"s{number}"), wait=False).server for number in range(5)]
    for server in servers:
        server.wait(60)
    assert len({server.port for server in servers}) == 5
    assert len({server.api_key for server in servers}) == 5
    with pytest.raises(ServerNotFound, match=r"Which one\? There are s0, s1, s2, s3, s4"):
        manager.stop()
    assert [release.verified for release in manager.stop_all()] == [True] * 5
    assert manager.servers() == {}
    traces.check()


def test_names_that_are_not_there(manager, spec):
    with pytest.raises(ServerNotFound, match=r"No server is called x: none runs\. Start one"):
        manager.stop("x")
    manager.start(spec(), timeout=60)
    with pytest.raises(ServerNotFound, match=r"No server is called x\. These are there: tiny"):
        manager.stop("x")


def test_a_start_that_takes_too_long_is_released(manager, spec, traces):
    with pytest.raises(StartTimeout, match=r"not ready after 1 s.*it was released") as caught:
        manager.start(spec(faults={"hang_in": "load"}), timeout=1)
    assert "timeout=" in caught.value.hint
    assert manager.servers() == {}
    traces.check()


def test_an_interrupt_releases_what_is_waited_for(manager, spec, traces):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    timer = threading.Timer(1.0, _thread.interrupt_main)
    timer.start()
    try:
        with pytest.raises(StartInterrupted, match="was interrupted; it was released"):
            manager.start(spec(faults={"hang_in": "init"}))
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, handler)
    assert manager.servers() == {}
    traces.check()


def test_a_second_interrupt_before_the_release_was_asked_for(manager, spec, traces, monkeypatch):
    """It is asked for all the same."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "stop", interrupted)
    with pytest.raises(StartInterrupted, match="its release continues by itself"):
        manager.start(spec(faults={"hang_in": "init"}), report=interrupted)
    (server,) = [*manager.servers().values(), *manager.past().values()]
    assert run_of(server).wait_over(LIMIT)
    assert server.release.verified
    traces.check()


def test_an_interrupt_before_there_is_a_server_says_nothing_of_an_earlier_one(manager, spec, monkeypatch):
    manager.start(spec(), timeout=60)
    manager.stop()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(choose, "provisioner", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        manager.start(spec())
    assert not isinstance(caught.value, StartInterrupted)


def test_a_failed_server_is_shown_until_it_is_stopped_or_started(manager, spec, traces):
    dying = {"die": {"who": "leader", "when": "ready", "after_s": 2.0, "rc": 3}}
    server = manager.start(spec(faults=dying), timeout=60).server
    while not server.state.over:
        time.sleep(0.01)
    assert server.state == "failed"
    assert str(server.error).startswith("vLLM ended with exit code 3. ")
    assert list(manager.servers()) == ["tiny"]
    traces.check()
    assert manager.stop("tiny").verified
    assert manager.servers() == {}
    assert server.log(5) != []
    assert manager.get_even_past("tiny") is server


class OfTheProgramError(Exception):
    """Raised by a program's own signal handler, or by what reports."""


def raise_of_the_program(*_):
    raise OfTheProgramError


@pytest.fixture
def soon():
    """A signal whose handler raises comes as soon as a server of the manager has a process."""
    before = signal.signal(signal.SIGUSR1, raise_of_the_program)
    threads = []

    def send(manager) -> None:
        def wait() -> None:
            while not any(server.pid for server in manager.servers().values()):
                time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield send
    for thread in threads:
        thread.join(60)
    signal.signal(signal.SIGUSR1, before)


def test_an_exception_of_the_program_releases_what_is_waited_for(manager, spec, traces, soon):
    soon(manager)
    with pytest.raises(OfTheProgramError):
        manager.start(spec(faults={"hang_in": "init"}))
    assert manager.servers() == {}
    traces.check()


def test_nor_does_a_block_that_is_not_entered_leave_one(executable, home, traces, soon):
    soon(api.manager)
    env = {"STAND_IN": '{"hang_in": "init"}'}
    with pytest.raises(OfTheProgramError), vllm_magic.serve("tiny", executable=executable, env=env):
        pass
    assert vllm_magic.servers() == {}
    traces.check()


def test_what_reports_may_raise(manager, spec, traces):
    with pytest.raises(OfTheProgramError):
        manager.start(spec(faults={"hang_in": "init"}), report=raise_of_the_program)
    assert manager.servers() == {}
    traces.check()


def test_what_another_start_has_made_stays(manager, spec):
    hangs = {"hang_in": "init"}
    server = manager.start(spec(faults=hangs), wait=False).server
    with pytest.raises(OfTheProgramError):
        manager.start(spec(faults=hangs), report=raise_of_the_program)
    assert server.state == "starting"
    assert manager.servers() == {"tiny": server}


def test_an_engine_that_dies_leaves_nothing(manager, spec, traces):
    dying = {"die": {"who": "engine", "when": "ready", "after_s": 2.0, "signal": 9}}
    server = manager.start(spec(faults=dying), timeout=60).server
    while not server.state.over:
        time.sleep(0.01)
    assert server.state == "failed"  # although the API server exits with 0
    assert server.release.verified
    traces.check()


def test_logs_survive_the_server(manager, spec):
    server = manager.start(spec(), timeout=60).server
    living = server.log(1000)
    manager.stop()
    assert server.log(1000)[: len(living)] == living
    assert manager.get_even_past().log(3)


def test_the_environment_of_a_spec_reaches_the_server(manager, spec):
    server = manager.start(spec(env={"SOME_NAME": "some value"}), timeout=60).server
    environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert b"SOME_NAME=some value" in environment


def test_the_key_is_in_the_environment_and_nowhere_else(manager, spec, home):
    server = manager.start(spec(), timeout=60).server
    key = server.api_key.encode()
    pids = [process.identity.pid for process in server.processes()]
    guard = manager.servers()["tiny"].processes()[0].parent
    for pid in [*pids, guard]:
        assert key not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert key not in Path(f"/proc/{guard}/environ").read_bytes()
    assert key in Path(f"/proc/{server.pid}/environ").read_bytes()
    for path in home.rglob("*"):
        if path.is_file():
            assert key not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0
        elif path.is_dir():
            assert path.stat().st_mode & 0o077 == 0
    assert server.api_key not in repr(server) + repr(server.spec) + str(vars(server.spec))


def test_a_forked_child_of_the_kernel_owns_nothing(manager, spec):
    server = manager.start(spec(), timeout=60).server
    child = os.fork()
    if child == 0:
        try:
            manager.stop_at_exit()
            manager.servers()
        except VllmMagicError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert server.state == "ready"


@pytest.mark.parametrize("free", range(8))
def test_no_descriptor_is_free(manager, spec, traces, free):
    """The start fails with a plain reason, nothing stays, and it works again afterwards."""
    manager.gpus()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        with pytest.raises(VllmMagicError, match="Too many open files"):
            manager.start(spec(), timeout=60)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert manager.start(spec(), timeout=60).server.stop().verified
    traces.check()


def test_the_python_api(executable, home, traces):
    with vllm_magic.serve("tiny", "--max-model-len", "128", executable=executable, timeout=60) as server:
        assert vllm_magic.servers() == {"tiny": server}
        assert server.base_url == f"{server.url}/v1"
    assert server.state == "released"
    one = vllm_magic.start("tiny", executable=executable, env={"A": "b"}, timeout=60)
    assert vllm_magic.stop("tiny").verified
    assert one.state == "released"
    assert vllm_magic.stop() == []
    traces.check()


def test_a_block_does_not_stop_what_ran_before_it(executable, home):
    before = vllm_magic.start("tiny", executable=executable, timeout=60)
    with vllm_magic.serve("tiny", executable=executable) as server:
        assert server is before
    assert before.state == "ready"
    vllm_magic.stop("tiny")


def test_a_start_does_not_wait_for_a_release_for_longer_than_it_may(manager, spec):
    server = manager.start(spec(faults={"ignore_sigterm": True}), timeout=60).server
    server._run.begin_stop(grace=600)
    began = time.monotonic()
    with pytest.raises(NameInUse, match="still being released"):
        manager.start(spec("tiny", "--max-model-len", "8"), timeout=0.5)
    assert time.monotonic() - began < 20
    server.stop(grace=0)


def test_the_asynchronous_api(executable, home, traces):
    import asyncio

    async def use() -> vllm_magic.Server:
        async with vllm_magic.serve("tiny", executable=executable, timeout=60) as server:
            assert server.state == "ready"
            return server

    async def give_up() -> None:
        env = {"STAND_IN": '{"hang_in": "init"}'}
        async with vllm_magic.serve("tiny", executable=executable, env=env):
            raise AssertionError

    async def cancelled() -> None:
        task = asyncio.create_task(give_up())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert asyncio.run(use()).state == "released"
    asyncio.run(cancelled())
    assert vllm_magic.servers() == {}
    traces.check()


def test_the_end_of_the_program_is_not_held_up(executable, home, traces):
    program = (
        f"import vllm_magic; vllm_magic.start('tiny', executable={executable!r}, timeout=60); print('ready')"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    assert time.monotonic() - began < 60
    deadline = time.monotonic() + 20
    while traces.processes() or traces.files():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    traces.check()


def test_bad_words_in_a_spec(executable):
    for fields in (
        {"model": ""},
        {"model": "-x"},
        {"model": "m", "port": 70000},
        {"model": "m", "name": "a b"},
    ):
        with pytest.raises(VllmMagicError):
            ServerSpec(executable=executable, **fields)


def test_one_that_never_ran(manager, spec, traces):
    """It is not shown as failed, for whoever waited has heard; and there is nothing to stop."""
    with pytest.raises(InvalidOption):
        manager.start(spec(gpus="7"))
    assert manager.servers() == {}
    server = manager.start(spec(gpus="7"), wait=False).server
    with pytest.raises(InvalidOption):
        server.wait(60)
    assert list(manager.servers()) == ["tiny"]
    assert manager.stop("tiny").ended == ()
    assert manager.servers() == {}
    traces.check()


def test_faces_share_the_kernels_manager():
    assert api.manager.servers() == {}
    assert isinstance(StartFailed("cause"), VllmMagicError)


def test_a_server_that_never_begins_holds_nothing(manager, spec):
    before = len(os.listdir("/proc/self/fd"))
    wanted = spec()
    provisioner = LocalProvisioner(wanted, os.environ, manager._probe)
    lost = [Server(wanted, provisioner, manager._probe, print, lambda _: None) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before
    lost[0]._run.stop_at_exit()  # asked before it begins
    lost[0]._run.begin()
    assert lost[0]._run.wait_over(60)
    assert lost[0].release.verified
