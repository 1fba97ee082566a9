"""The probe with drivers that answer, hang, crash, give wrong figures, or are missing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_gpu import fakegpu

from vllm_magic.gpu import probe as probe_module
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.gpu.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GIB = 2**30
LONG = 60.0  # seconds; no test waits this long unless it fails


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fakegpu.build(tmp_path, gpus=2)


@pytest.fixture
def probe(root: Path) -> Iterator[Probe]:
    probe = Probe(start_timeout=LONG, env=fakegpu.env(root))
    yield probe
    probe.close()


def pid_of(probe: Probe) -> int:
    assert probe.pid is not None
    return probe.pid


def start(probe: Probe) -> int:
    """Let the probe process answer once, and return its pid."""
    assert probe.snapshot(LONG).problem is None
    return pid_of(probe)


def is_gone(pidfd: int) -> bool:
    """Wait for the end of a process, and close its pidfd."""
    try:
        return bool(select.select([pidfd], [], [], LONG)[0])
    finally:
        os.close(pidfd)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# A driver that answers.


def test_a_snapshot_is_what_the_driver_says(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, total_mib__1=8192, name__1="NVIDIA Small", capability__1=75)
    before = time.monotonic()
    with fakegpu.holding(root, 2, gpu=1) as holder:
        snapshot = probe.snapshot(LONG)
    free = Gpu(0, fakegpu.uuid(0), "NVIDIA FakeGPU 24GB", 24 * GIB, 0, 24 * GIB, (), (8, 9))
    listed = (ComputeProcess(holder.pid, 2 * GIB),)
    held = Gpu(1, fakegpu.uuid(1), "NVIDIA Small", 8 * GIB, 2 * GIB, 6 * GIB, listed, (7, 5))
    assert before <= snapshot.taken <= time.monotonic()
    assert snapshot == Snapshot(snapshot.taken, (free, held), driver="580.00.00", problem=None, cuda=(13, 0))
    assert snapshot.same(held, snapshot) is snapshot.gpus[1]
    assert snapshot.same(replace(held, uuid="GPU-of-another-machine"), snapshot) is None


def test_the_process_stays_and_sees_what_changes(root: Path, probe: Probe) -> None:
    pid = start(probe)
    with fakegpu.holding(root, 2) as holder:
        assert probe.snapshot(LONG).gpus[0].used == 2 * GIB
        holder.kill()
        holder.wait()
        assert probe.snapshot(LONG).gpus[0].used == 0
    assert pid_of(probe) == pid


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (4 * GIB, 18 * GIB, (2 * GIB,), 2 * GIB)),
        ({"mem_v2_unsupported": 1}, (6 * GIB, 18 * GIB, (2 * GIB,), 4 * GIB)),
        ({"mem_unsupported": 1}, (None, None, (2 * GIB,), None)),
        ({"procs_unsupported": 1}, (4 * GIB, 18 * GIB, None, None)),
        ({"mig": 1}, (4 * GIB, 18 * GIB, None, None)),
        ({"proc_mem_na": 1}, (4 * GIB, 18 * GIB, (None,), 4 * GIB)),
        ({"proc_mem_zero": 1}, (4 * GIB, 18 * GIB, (0,), 4 * GIB)),
    ],
    ids=str,
)
def test_figures_that_the_driver_does_not_report_are_none(
    root: Path, probe: Probe, settings: dict[str, int], expected: tuple[object, ...]
) -> None:
    fakegpu.configure(root, base_used_mib=2048, reserved_mib=2048, **settings)
    with fakegpu.holding(root, 2):
        gpu = probe.snapshot(LONG).gpus[0]
    processes = gpu.processes and tuple(process.used for process in gpu.processes)
    assert (gpu.used, gpu.free, processes, gpu.unattributed) == expected


def test_a_driver_that_does_not_tell_the_compute_capability(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, capability=0)
    assert [gpu.capability for gpu in probe.snapshot(LONG).gpus] == [None, None]


@pytest.mark.parametrize(("number", "cuda"), [(12040, (12, 4)), (11080, (11, 8)), (0, None)])
def test_the_cuda_of_the_driver(root: Path, probe: Probe, number: int, cuda: tuple[int, int] | None) -> None:
    fakegpu.configure(root, driver="550.54.15", cuda=number)
    snapshot = probe.snapshot(LONG)
    assert (snapshot.driver, snapshot.cuda) == ("550.54.15", cuda)


def test_pids_are_those_of_the_driver(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, pid_offset=1_000_000)
    with fakegpu.holding(root, 2) as holder:
        assert probe.snapshot(LONG).gpus[0].processes == (ComputeProcess(holder.pid + 1_000_000, 2 * GIB),)


def test_what_the_library_prints_is_no_reply(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, noise=1)
    assert len(probe.snapshot(LONG).gpus) == 2
    assert len(probe.snapshot(LONG).gpus) == 2


def test_a_driver_that_says_too_much(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "_LONGEST_REPLY", 100)
    assert probe.snapshot(LONG).problem == "the NVIDIA driver lists more than any machine has"
    assert probe.pid is None
    monkeypatch.undo()
    assert len(probe.snapshot(LONG).gpus) == 2


def test_threads_can_share_a_probe(probe: Probe) -> None:
    with ThreadPoolExecutor(8) as pool:
        snapshots = list(pool.map(lambda _: probe.snapshot(LONG), range(40)))
    assert all(len(snapshot.gpus) == 2 for snapshot in snapshots)


def test_a_request_does_not_wait_long_for_another_thread(root: Path) -> None:
    probe = Probe(start_timeout=0.1, env=fakegpu.env(root))
    with probe._lock:
        assert probe.snapshot(0.1).problem == "the NVIDIA driver did not answer within 0.2 s"
    assert probe.pid is None


# A driver that is not there.


def test_no_driver(root: Path, probe: Probe) -> None:
    (root / "lib" / "libnvidia-ml.so.1").write_bytes(b"")
    snapshot = probe.snapshot(LONG)
    assert (snapshot.gpus, snapshot.driver) == ((), None)
    assert snapshot.problem == "no NVIDIA driver found"


def test_a_driver_that_is_loaded_later_is_found(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, driver_not_loaded=1)
    assert probe.snapshot(LONG).problem == "the NVIDIA driver is not loaded"
    pid = pid_of(probe)
    fakegpu.configure(root, driver_not_loaded=0)
    assert len(probe.snapshot(LONG).gpus) == 2
    assert pid_of(probe) == pid


def test_a_driver_without_gpus(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, gpus=0)
    snapshot = probe.snapshot(LONG)
    assert snapshot.problem == "the NVIDIA driver shows no GPU"
    assert snapshot.driver == "580.00.00"


def test_no_nvidia_ml_py(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module.importlib.util, "find_spec", lambda _name: None)
    assert probe.snapshot().problem == "nvidia-ml-py is not installed (pip install nvidia-ml-py)"


def test_no_python_to_run_it(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "No such file or directory: '/nowhere/python'" in str(probe.snapshot().problem)


# A driver that hangs or crashes.


@pytest.mark.parametrize("place", ["init", "memory"])
def test_a_driver_that_hangs_is_not_asked_again(root: Path, place: str) -> None:
    fakegpu.configure(root, hang=place)
    probe = Probe(start_timeout=0.5, env=fakegpu.env(root))
    first = probe.snapshot(0.1)
    fakegpu.configure(root, hang=None)
    second = probe.snapshot(0.1)
    assert first.gpus == second.gpus == ()
    assert first.problem == second.problem == "the NVIDIA driver did not answer within 0.5 s"
    assert probe.pid is None  # so the second answer came from memory


def test_the_process_that_hangs_is_killed(root: Path, probe: Probe) -> None:
    process = os.pidfd_open(start(probe))
    fakegpu.configure(root, hang="memory")
    assert probe.snapshot(0.5).problem == "the NVIDIA driver did not answer within 0.5 s"
    assert is_gone(process)


def test_a_quick_request_does_not_count_as_a_hang(probe: Probe) -> None:
    """The next request gets its own reply, and not the late reply to an earlier request."""
    process = start(probe)
    os.kill(process, signal.SIGSTOP)
    assert "did not answer within 0.2 s" in probe.snapshot(0.2, may_start=False).problem
    assert "did not answer within 0.1 s" in probe.snapshot(0.1, may_start=False).problem
    os.kill(process, signal.SIGCONT)
    asked = time.monotonic()
    later = probe.snapshot(LONG)
    assert len(later.gpus) == 2
    assert later.taken >= asked
    assert probe.pid == process


def test_a_driver_that_hung_is_asked_again_later(
    root: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "_RETRY_AFTER_HANG", 0.0)
    start(probe)
    fakegpu.configure(root, hang="memory")
    assert probe.snapshot(0.5).problem
    fakegpu.configure(root, hang=None)
    assert len(probe.snapshot(LONG).gpus) == 2


def test_a_slow_start_is_no_hang(root: Path, probe: Probe) -> None:
    fakegpu.configure(root, init_ms=1000)
    assert len(probe.snapshot(timeout=0.1).gpus) == 2


@pytest.mark.parametrize("place", ["init", "memory"])
def test_a_crash_is_told_and_the_next_process_answers(root: Path, probe: Probe, place: str) -> None:
    fakegpu.configure(root, crash=place)
    assert probe.snapshot(LONG).problem == (
        "the NVIDIA driver could not be asked: the probe process died of SIGSEGV"
    )
    fakegpu.configure(root, crash=None)
    assert len(probe.snapshot(LONG).gpus) == 2


def test_a_process_that_was_killed_between_requests_is_replaced(probe: Probe) -> None:
    pid = start(probe)
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert is_gone(process)
    assert start(probe) != pid


# The process itself.


def test_close_ends_the_process_and_a_snapshot_starts_another(probe: Probe) -> None:
    process = os.pidfd_open(start(probe))
    probe.close()
    assert probe.pid is None
    assert is_gone(process)
    start(probe)


def test_close_does_not_wait_for_a_request_that_hangs(root: Path, probe: Probe) -> None:
    start(probe)
    fakegpu.configure(root, hang="memory")
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(probe.snapshot, 10 * LONG)
        until(probe._lock.locked)
        probe.close()
        assert request.result().problem in {
            "the NVIDIA driver could not be asked: the probe process died of SIGKILL",
            "the probe was closed",
        }


def test_an_interrupted_request_leaves_no_reply_for_the_next(root: Path, probe: Probe) -> None:
    pid = start(probe)
    fakegpu.configure(root, hang="memory")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    interrupt = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        probe.snapshot(10 * LONG)
    interrupt.join()
    signal.signal(signal.SIGINT, handler)
    fakegpu.configure(root, hang=None, gpus=1)
    assert len(probe.snapshot(LONG).gpus) == 1
    assert pid_of(probe) != pid


def test_the_process_has_its_own_session_and_ignores_sigint(probe: Probe) -> None:
    pid = start(probe)
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGINT)
    assert start(probe) == pid


def test_no_environment_variable_changes_the_probe_process(root: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not the json of the standard library')")
    probe = Probe(env={**fakegpu.env(root), "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere"})
    assert probe.snapshot(LONG).problem is None
    probe.close()


OWNER = """
import os, sys, threading
from fake_gpu import fakegpu
from vllm_magic.gpu.probe import Probe
probe = Probe(env=os.environ)
assert probe.snapshot(60).gpus
"""


def run_owner(root: Path, script: str) -> subprocess.Popen[str]:
    """Run a script that owns a probe."""
    tests = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OWNER + script],
        env={**fakegpu.env(root), "PYTHONPATH": f"{tests}:{tests.parent}"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("hang", [None, "memory"])
def test_the_process_ends_with_its_parent(root: Path, hang: str | None) -> None:
    script = """
fakegpu.configure(os.environ["FAKE_GPU_DIR"], hang=sys.argv[1] if len(sys.argv) > 1 else None)
threading.Thread(target=probe.snapshot, args=(600,)).start()
print(probe.pid, flush=True)
threading.Event().wait()
"""
    if hang:
        script = f"sys.argv = ['', {hang!r}]" + script
    with run_owner(root, script) as owner:
        assert owner.stdout
        try:
            process = os.pidfd_open(int(owner.stdout.readline()))
        finally:
            owner.kill()
    assert is_gone(process)


def test_a_forked_child_has_a_process_of_its_own(root: Path) -> None:
    script = """
mine = probe.pid
child = os.fork()
if child == 0:
    assert len(probe.snapshot(60).gpus) == 2
    assert probe.pid != mine
    probe.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert len(probe.snapshot(60).gpus) == 2
assert probe.pid == mine
probe.close()
"""
    with run_owner(root, script) as owner:
        pass
    assert owner.returncode == 0
