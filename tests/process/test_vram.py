"""VRAM on the fake driver: choosing GPUs, proving the release, keeping starts out of releases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_gpu import fakegpu

from vllm_magic.errors import InvalidOption, NotEnoughMemory, ReleaseFailed
from vllm_magic.gpu import locks
from vllm_magic.linux import processes
from vllm_magic.release.local_verifier import LocalVerifier
from vllm_magic.release.result import Proof

GIB = 2**30
LIMIT = 30.0  # seconds; half of what memory is waited for
patient = pytest.mark.usefixtures("patient")
A_PART = ("--gpu-memory-utilization", "0.2")  # so that several fit on one GPU


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Locks of the test's own: the fake GPUs have the same UUIDs everywhere."""
    monkeypatch.setattr(locks, "_PARENT", tmp_path)


def kill_guards(server) -> None:
    """Both at once: neither may see the other die."""
    inner = processes.read(server.processes()[0].parent)
    outer = processes.read(inner.parent)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for guard in (outer, inner):
            os.kill(guard.identity.pid, number)


def used(manager) -> list[int]:
    return [gpu.used for gpu in manager.gpus().gpus]


@patient
def test_a_release_is_proved_by_the_memory(manager, spec, fake_gpus, traces):
    server = manager.start(spec(), timeout=60).server
    assert used(manager) == [2 * GIB, 0]
    release = server.stop()
    assert release.proof is Proof.NVML_MEMORY
    (gpu,) = release.vram
    assert (gpu.index, gpu.baseline, gpu.before, gpu.after, gpu.freed) == (0, 0, 2 * GIB, 0, 2 * GIB)
    traces.check()


@patient
@pytest.mark.parametrize("gpus", ["1", pytest.param(fakegpu.uuid(1), id="UUID"), "auto"])
def test_the_chosen_gpu_is_used(manager, spec, fake_gpus, gpus):
    with fakegpu.holding(fake_gpus, 4, 0):
        server = manager.start(spec(gpus=gpus), timeout=60).server
        assert used(manager) == [4 * GIB, 2 * GIB]
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        assert f"CUDA_VISIBLE_DEVICES={fakegpu.uuid(1)}".encode() in environment
        release = server.stop()
        assert [gpu.index for gpu in release.vram] == [1]
        assert release.proof is Proof.NVML_MEMORY


@patient
def test_tensor_parallel_over_two(manager, spec, fake_gpus):
    server = manager.start(spec("tiny", "-tp", "2", gpus="auto"), timeout=60).server
    assert used(manager) == [2 * GIB, 2 * GIB]
    assert [gpu.freed for gpu in server.stop().vram] == [2 * GIB, 2 * GIB]


@patient
def test_auto_says_what_is_missing(manager, spec, fake_gpus, traces):
    with fakegpu.holding(fake_gpus, 10, 0), fakegpu.holding(fake_gpus, 12, 1):
        with pytest.raises(NotEnoughMemory, match="GiB") as caught:
            manager.start(spec(gpus="auto"), timeout=60)
        assert "\n" not in str(caught.value)
        manager.start(spec("tiny", "--gpu-memory-utilization", "0.5", gpus="auto"), timeout=60).server.stop()
    traces.check()


@patient
@pytest.mark.parametrize("gpus", ["2", "x", "0,0", "GPU-nowhere"])
def test_gpus_that_are_not_there(manager, spec, fake_gpus, gpus):
    with pytest.raises(InvalidOption):
        manager.start(spec(gpus=gpus), timeout=60)


@patient
def test_memory_that_comes_back_late_is_waited_for(manager, spec, fake_gpus, traces):
    server = manager.start(spec(faults={"vram_teardown_s": 1.0}), timeout=60).server
    release = server.stop()
    assert release.verified
    assert release.seconds >= 1.0
    assert used(manager) == [0, 0]
    traces.check()


@pytest.fixture
def soon(monkeypatch):
    """No test waits a minute for memory that does not come back."""
    monkeypatch.setattr("vllm_magic.release.local_verifier.MEMORY_LIMIT", 1.0)
    monkeypatch.setattr("vllm_magic.release.local_verifier.REPEATED_LIMIT", 1.0)


@pytest.fixture
def looked(monkeypatch) -> threading.Event:
    """Set once a server's life has seen what it holds when it is ready, which is just after others hear that it is."""
    done, look = threading.Event(), LocalVerifier.observe_ready

    def look_and_tell(self, *members) -> None:
        look(self, *members)
        done.set()

    monkeypatch.setattr(LocalVerifier, "observe_ready", look_and_tell)
    return done


@patient
@pytest.mark.usefixtures("soon")
def test_memory_that_does_not_come_back_is_an_error(manager, spec, fake_gpus, looked, traces):
    """And each time that somebody asks again it is looked at again, until it is back."""
    server = manager.start(spec(), timeout=60).server
    assert looked.wait(60)
    for grown, again in ((3, manager.stop), (4, manager.stop), (5, server.stop), (6, manager.stop_all)):
        fakegpu.configure(fake_gpus, base_used_mib=grown * 1024)
        if grown == 3:  # nobody sees it grow before the end
            kill_guards(server)
            server._run.wait_over(60)
        with pytest.raises(ReleaseFailed, match=f"GPU 0 has {grown}.00 GiB more in use"):
            again()
        assert server.state == "failed"
        assert not server.release.verified
        assert manager.servers() == {"tiny": server}
    fakegpu.configure(fake_gpus, base_used_mib=None)
    release = manager.stop("tiny")
    assert release.verified
    assert release.proof is Proof.NVML_MEMORY
    assert release.ended  # those that ended then
    assert "processes ended" in release.text
    assert server.state == "released"
    assert manager.servers() == {}
    traces.check()


@patient
@pytest.mark.usefixtures("soon")
def test_a_start_of_the_same_name_is_not_held_up_by_that(manager, spec, fake_gpus):
    server = manager.start(spec(faults={"vram_teardown_s": 60.0}), timeout=60).server
    with pytest.raises(ReleaseFailed, match="still lists pid"):
        manager.stop("tiny")
    again = manager.start(spec("tiny", *A_PART), timeout=60).server
    assert again is not server
    assert manager.servers() == {"tiny": again}


@patient
def test_another_process_that_grows_meanwhile_is_not_ours(manager, spec, fake_gpus):
    server = manager.start(spec(), timeout=60).server
    with fakegpu.holding(fake_gpus, 5, 0):
        release = server.stop()
        assert release.verified
        assert release.seconds < LIMIT
        assert release.proof is Proof.NVML_PROCESSES
        assert "holds 5.0 GiB; it came while this server ran" in release.note
        assert release.vram[0].after == 5 * GIB


@patient
def test_a_holder_that_came_is_named_when_both_guards_are_killed(manager, spec, fake_gpus):
    """A worker that another daemon has started for the server looks just so."""
    server = manager.start(spec(), timeout=60).server
    with fakegpu.holding(fake_gpus, 4) as holder:
        kill_guards(server)
        assert server._run.wait_over(60)
        named = f"GPU 0: pid {holder.pid} of root holds 4.0 GiB; it came while this server ran"
        assert server.release.verified
        assert server.release.proof is Proof.NVML_PROCESSES
        assert named in server.release.note
        assert [named in line for line in manager.news()] == [True]


@patient
def test_memory_without_a_name_that_grows_is_no_failure(manager, spec, fake_gpus, traces):
    server = manager.start(spec(), timeout=60).server
    fakegpu.configure(fake_gpus, base_used_mib=200)
    release = server.stop()
    assert release.verified
    assert release.proof is Proof.NVML_PROCESSES
    assert "0.20 GiB more in use than before the start" in release.note
    traces.check()


@patient
def test_two_servers_on_one_gpu(manager, spec, fake_gpus):
    one = manager.start(spec("tiny", *A_PART, name="one"), timeout=60).server
    other = manager.start(spec("tiny", *A_PART, name="two"), timeout=60).server
    assert used(manager)[0] == 4 * GIB
    for release in (one.stop(), other.stop()):
        assert release.vram[0].freed == 2 * GIB
        assert (release.proof, release.note) == (Proof.NVML_MEMORY, "")  # the other one is known


@patient
def test_what_is_freed_is_the_servers_own_share(manager, spec, fake_gpus):
    for name in ("one", "two", "three"):
        manager.start(spec("tiny", *A_PART, name=name), timeout=60)
    releases = manager.stop_all()
    assert [release.vram[0].freed for release in releases] == [2 * GIB] * 3
    assert {(release.proof, release.note) for release in releases} == {(Proof.NVML_MEMORY, "")}


@patient
def test_an_engine_that_dies_beside_another_server(manager, spec, fake_gpus):
    """Nobody is left to be ended, and the GPU is not empty: it is proved all the same."""
    manager.start(spec("tiny", *A_PART, name="other"), timeout=60)
    dying = {"die": {"who": "engine", "when": "ready", "after_s": 2.0, "signal": 9}}
    server = manager.start(spec("tiny", *A_PART, name="dying", faults=dying), timeout=60).server
    assert server._run.wait_over(30)
    assert server.release.verified
    assert server.release.proof is Proof.NVML_MEMORY
    assert server.error.cause == "The engine ended, and did not say why"


@patient
def test_a_server_that_is_dying_is_not_ready(manager, spec, fake_gpus):
    """While its memory comes back it is no server to be reused, and nothing starts on its GPU."""
    server = manager.start(spec(faults={"vram_teardown_s": 2.0}), timeout=60).server
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while server.state == "ready":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert server.state == "stopping"
    assert not locks.wait_for_releases([fakegpu.uuid(0)], 0.0, threading.Event())
    again = manager.start(spec(faults={"vram_teardown_s": 2.0}), timeout=60)
    assert server.state == "failed"
    assert (again.reused, again.server.state) == (False, "ready")
    assert again.server.stop().verified


@pytest.mark.parametrize(
    ("config", "proof"),
    [
        ({"driver_not_loaded": 1}, Proof.PROCESSES),
        ({"crash": 1}, Proof.PROCESSES),
        ({"mem_unsupported": 1}, Proof.NVML_PROCESSES),
        ({"mem_unsupported": 1, "procs_unsupported": 1}, Proof.PROCESSES),
        ({"procs_unsupported": 1}, Proof.NVML_MEMORY),
        ({"proc_mem_na": 1}, Proof.NVML_MEMORY),
        ({"pid_offset": 100_000_000}, Proof.NVML_MEMORY),
    ],
    ids=str,
)
@patient
def test_drivers_that_say_less(manager, spec, fake_gpus, config, proof, traces):
    """Everything works, and the proof is named for what it is."""
    fakegpu.configure(fake_gpus, **config)
    server = manager.start(spec(), timeout=60).server
    release = server.stop()
    assert release.verified
    assert release.proof is proof
    traces.check()


def test_a_driver_that_hangs_from_the_start(manager, spec, fake_gpus, traces):
    fakegpu.configure(fake_gpus, hang="init")
    manager._probe._start_timeout = 2.0
    release = manager.start(spec(), timeout=60).server.stop()
    assert (release.verified, release.proof) == (True, Proof.PROCESSES)
    traces.check()


def test_a_driver_that_hangs_later(manager, spec, fake_gpus, traces):
    server = manager.start(spec(), timeout=60).server
    fakegpu.configure(fake_gpus, hang="memory")
    release = server.stop()
    assert release.verified
    assert release.proof is Proof.PROCESSES
    assert "did not answer" in release.note
    traces.check()


@patient
def test_a_start_waits_for_a_release_in_another_process(manager, spec, fake_gpus):
    uuid = fakegpu.uuid(0)
    (path,) = locks.lock_paths([uuid])
    program = f"import fcntl, sys; f = open({str(path)!r}); fcntl.flock(f, fcntl.LOCK_SH); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        server = manager.start(spec(), wait=False).server
        time.sleep(1.0)
        assert (server.pid, server.progress.stage.name) == (None, "QUEUED")
        other.stdin.close()
        server.wait(60)
    assert server.state == "ready"


@patient
@pytest.mark.parametrize("home_there", [True, False])
def test_another_user_has_made_the_folder_of_the_locks(
    manager, spec, fake_gpus, tmp_path, monkeypatch, home_there
):
    """Everybody can, in /tmp."""
    locks.folder_path().symlink_to("/")
    (tmp_path / "user").mkdir(mode=0o700)
    monkeypatch.setattr(locks, "_home", lambda: tmp_path / "user" if home_there else None)
    server = manager.start(spec(), timeout=60).server
    assert server.state == "ready"
    assert ["does not wait for the releases" in line for line in manager.news()] == [True] * (not home_there)
    assert server.stop().verified


@patient
def test_a_stop_while_it_waits_for_a_release(manager, spec, fake_gpus, traces):
    with locks.ReleaseLocks([fakegpu.uuid(0)]):
        server = manager.start(spec(), wait=False).server
        time.sleep(0.3)
        assert server.stop().verified
    assert server.pid is None
    traces.check()


@patient
def test_the_guards_hold_the_lock_while_they_release(manager, spec, fake_gpus):
    """Also where the kernel is dead: here the guards act for another reason, the leader's death."""
    server = manager.start(spec(faults={"vram_teardown_s": 0.0, "children": 50}), timeout=60).server
    free = threading.Event()
    seen = []

    def watch() -> None:
        while not free.is_set():
            seen.append(locks.wait_for_releases([fakegpu.uuid(0)], 0.0, free))
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    os.kill(server.pid, signal.SIGKILL)
    while not server.state.over:
        time.sleep(0.01)
    free.set()
    watching.join(10)
    assert False in seen
    assert locks.wait_for_releases([fakegpu.uuid(0)], 0.0, threading.Event())
