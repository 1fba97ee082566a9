"""A `multiprocessing.Pool` in the kernel, while servers start from threads: its workers have copies of what is open then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import by_hand
import forking
import pytest

from vllm_magic.engine.startup.estimate import Pace
from vllm_magic.lifecycle.lifecycle import Lifecycle
from vllm_magic.linux import pidfd
from vllm_magic.provisioning.standby_pool import StandbyPool

LIMIT = 120.0  # seconds; what hangs here hangs for ever


@pytest.fixture
def said(home, executable, monkeypatch):
    """Runs `tests/forking.py`: what it says."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)

    def run(how: str, what: str) -> list[str]:
        words = [sys.executable, "-W", "ignore::DeprecationWarning", forking.__file__, how, what]
        path = os.pathsep.join([str(Path(forking.__file__).parent), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with what it has forked
            said, _ = process.communicate()
            raise AssertionError(f"it hangs after {said!r}") from None
        assert process.returncode == 0
        return said.splitlines()

    return run


@pytest.mark.parametrize("how", ["python", "c"])
def test_a_start_and_a_stop(said, traces, how):
    assert said(how, "stop") == ["ready", "True"]
    traces.check()


def test_guards_that_are_killed(said, traces):
    assert said("c", "lose_guards") == ["failed", "True"]
    traces.check()


@pytest.mark.parametrize("how", ["python", "c"])
def test_a_program_that_a_cell_waits_for(said, how):
    assert said(how, "child") == ["said", "0"]


def test_what_a_child_gets(said, traces):
    assert said("never", "inherit") == ["True /dev/null 0", "True"]
    traces.check()


def test_a_start_that_hangs(said):
    assert said("never", "hang") == ["0 0"]


def test_pools(said, traces):
    assert said("never", "pools") == ["True"]
    traces.check()


# A kernel that was started without some of the descriptors 0 to 2, as a service may be.
CLOSED = """
import json, os, sys
answer = os.fdopen(os.dup2(1, 200, inheritable=False), "w")
for one in sys.argv[1]:
    os.close(int(one))
import vllm_magic
said = []
for name in ("first", "second"):
    server = vllm_magic.start("tiny", name=name)
    release = server.stop()
    said.append([release.verified, release.proof.value])
child = vllm_magic.children.child.ChildProcess([sys.executable, "-c", "print(5)"], {})
said.append([line for lines in child.lines(0.1) for line in lines])
child.close()
json.dump(said, answer)
answer.flush()
"""


@pytest.mark.usefixtures("home", "fake_gpus")
@pytest.mark.parametrize("closed", ["0", "02", "12", "012"])
def test_a_kernel_without_standard_descriptors(executable, traces, closed):
    """What a child is given may then have the number of its standard input or output, and would be lost."""
    process = subprocess.run(
        [sys.executable, "-c", "import vllm_magic.children.child\n" + CLOSED, closed],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "VLLM_MAGIC_EXECUTABLE": executable},
        timeout=LIMIT,
        check=False,
    )
    once = [True, "NVML memory"]
    assert json.loads(process.stdout or "[]") == [once, once, ["5"]]
    traces.check()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("ask", ["estimate", "stages", "spare"])
def test_what_a_forked_child_asks_while_another_thread_held_the_lock(ask):
    """The child of a pool may show a server of its parent; the thread that held the lock is not in the child."""
    lifecycle, pool = Lifecycle("tiny", Pace({})), StandbyPool()
    asked = {"estimate": lifecycle.estimate, "stages": lifecycle.stages, "spare": pool.status}[ask]
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with lifecycle._lock, pool._lock:
            is_held.set()
            is_over.wait(LIMIT)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(LIMIT)
    child = os.fork()
    if child == 0:
        try:
            asked()
            os._exit(0)
        finally:
            os._exit(1)
    is_over.set()
    holder.join()
    end = pidfd.open_pidfd(by_hand.identity(child))
    try:
        assert pidfd.readable([end], LIMIT), "it hangs"
    finally:
        os.close(end)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
