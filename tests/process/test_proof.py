"""A release is proved by the strongest evidence there is, and never while memory is still held.

The driver is the fake one; the processes, and what they hold of it, are real.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fast_starts
import pytest
from by_hand import PatientProbe
from fake_gpu import fakegpu
from records import IDENTIFIER, record

from vllm_magic import ledger
from vllm_magic.gpu.devices import Snapshot
from vllm_magic.gpu.holders import device_files
from vllm_magic.guard import record as records
from vllm_magic.linux import marks, pidfd, processes
from vllm_magic.release import gpu_comparison, local_verifier
from vllm_magic.release.local_verifier import LocalVerifier
from vllm_magic.release.result import Proof
from vllm_magic.release.verifier import Verdict

GIB = 2**30
MARK = f"MAGIC_VLLM_SERVER=test-{os.getpid()}".encode()
# Beyond every pid (PID_MAX_LIMIT is 2**22): those of another PID namespace.
ELSEWHERE = 10_000_000
NOBODY = 65534  # a user
NEVER = 600.0  # seconds that a driver takes to give memory back, which no test waits for
# What is left of the evidence when the driver says nothing.
WITHOUT_DRIVER = Proof.DEVICE_FILES if device_files() else Proof.PROCESSES


@pytest.fixture
def driver(tmp_path):
    """A fake driver with two GPUs of 24 GiB."""
    return fakegpu.build(tmp_path, gpus=2)


@pytest.fixture
def probe(driver):
    probe = PatientProbe(env=fakegpu.env(driver))
    yield probe
    probe.close()


@pytest.fixture
def soon(monkeypatch):
    """Shorten the wait for memory that does not come back."""
    monkeypatch.setattr(local_verifier, "MEMORY_LIMIT", 0.3)


@pytest.fixture
def verifier(probe):
    """Make verifiers that have read the GPUs as they are now."""

    def make(*chosen: str) -> LocalVerifier:
        baseline = probe.snapshot()
        assert len(baseline.gpus) == 2
        return LocalVerifier(probe, baseline, chosen, MARK)

    return make


@contextlib.contextmanager
def server(driver, gib=3.0, gpu=0, teardown_s=0.0):
    """A process that holds VRAM; yields a function that kills it and returns its identity."""
    with fakegpu.holding(driver, gib, gpu, teardown_s) as process:
        found = processes.read(process.pid)
        assert found

        def kill():
            process.kill()
            process.wait()
            return {found.identity}

        yield kill


def whole_life(driver, verifier, **held):
    """Start a server, let it be ready, and kill it; return the verdict."""
    with server(driver, **held) as kill:
        verifier.observe_ready()
        verifier.observe_before_stop()
        return verifier.verify(kill())


class TestMemoryIsBack:
    def test_and_that_is_proved(self, driver, verifier):
        verdict = whole_life(driver, verifier())
        assert verdict.verified
        assert verdict.proof is Proof.NVML_MEMORY
        assert verdict.note == ""
        (gpu,) = verdict.vram  # the other GPU was not used
        assert (gpu.index, gpu.uuid) == (0, fakegpu.uuid(0))
        assert (gpu.baseline, gpu.before, gpu.after, gpu.freed) == (0, 3 * GIB, 0, 3 * GIB)

    def test_on_the_gpu_that_was_used(self, driver, verifier):
        (gpu,) = whole_life(driver, verifier(), gpu=1).vram
        assert (gpu.index, gpu.freed) == (1, 3 * GIB)

    def test_on_every_chosen_gpu_used_or_not(self, driver, verifier):
        verdict = whole_life(driver, verifier(fakegpu.uuid(0), fakegpu.uuid(1)))
        assert verdict.proof is Proof.NVML_MEMORY
        assert [gpu.freed for gpu in verdict.vram] == [3 * GIB, 0]

    def test_late_memory_is_waited_for(self, driver, verifier):
        began = time.monotonic()
        verdict = whole_life(driver, verifier(), teardown_s=0.7)
        assert verdict.verified
        assert verdict.proof is Proof.NVML_MEMORY
        assert verdict.vram[0].after == 0
        assert time.monotonic() - began > 0.6

    def test_before_it_was_ready(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            one.observe_before_stop()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_MEMORY, True)
        assert [gpu.freed for gpu in verdict.vram] == [3 * GIB]

    def test_after_it_ended_by_itself(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_MEMORY, True)
        assert [gpu.before for gpu in verdict.vram] == [None, None]  # nobody looked, so it is any of them

    def test_a_server_without_vram(self, verifier):
        one = verifier()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            identity = processes.read(process.pid).identity
            one.observe_ready()
            one.observe_before_stop()
            process.kill()
        verdict = one.verify({identity})
        assert verdict.verified
        assert verdict.vram == ()

    def test_within_what_a_driver_may_move(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            one.observe_before_stop()
            fakegpu.configure(driver, base_used_mib=gpu_comparison.TOLERANCE // 2**20)
            assert one.verify(kill()).verified


@pytest.mark.usefixtures("soon")
class TestMemoryIsNotBack:
    @pytest.mark.parametrize(
        "driver_says",
        [
            {},
            {"procs_unsupported": 1},
            {"proc_mem_na": 1},
            {"proc_mem_zero": 1},
            {"pid_offset": ELSEWHERE},
            {"pid_offset": ELSEWHERE, "proc_mem_na": 1},
            {"mem_v2_unsupported": 1},
            {"mig": 1},
        ],
        ids=str,
    )
    def test_memory_that_stays_is_noticed_with_every_kind_of_driver(self, driver, verifier, driver_says):
        fakegpu.configure(driver, **driver_says)
        verdict = whole_life(driver, verifier(), teardown_s=NEVER)
        assert not verdict.verified
        assert verdict.proof is WITHOUT_DRIVER
        assert verdict.note.startswith("GPU 0")
        assert [(gpu.index, gpu.after) for gpu in verdict.vram] == [(0, 3 * GIB)]

    @pytest.mark.parametrize("looked", [True, False])
    @pytest.mark.parametrize(
        "driver_says", [{}, {"procs_unsupported": 1}, {"pid_offset": ELSEWHERE}], ids=str
    )
    def test_where_it_had_not_been_ready(self, driver, verifier, driver_says, looked):
        fakegpu.configure(driver, **driver_says)
        one = verifier()
        with server(driver, teardown_s=NEVER) as kill:
            if looked:
                one.observe_before_stop()
            verdict = one.verify(kill())
        if looked or not driver_says:
            assert not verdict.verified
        else:  # a start that failed, and nobody says whose the memory is: told, and not held against it
            assert (verdict.proof, verdict.verified) == (WITHOUT_DRIVER, True)
            assert "does not say whose" in verdict.note

    def test_where_only_pids_are_known(self, driver, verifier):
        fakegpu.configure(driver, mem_unsupported=1)
        verdict = whole_life(driver, verifier(), teardown_s=NEVER)
        assert not verdict.verified
        assert "the driver still lists pid" in verdict.note

    def test_of_one_gpu_of_two(self, driver, verifier):
        one = verifier(fakegpu.uuid(0), fakegpu.uuid(1))
        with server(driver) as kill, server(driver, 2.0, gpu=1, teardown_s=NEVER) as kill_other:
            one.observe_ready()
            one.observe_before_stop()
            verdict = one.verify(kill() | kill_other())
        assert not verdict.verified
        assert "GPU 1" in verdict.note
        assert "GPU 0" not in verdict.note
        assert [gpu.after for gpu in verdict.vram] == [0, 2 * GIB]

    @pytest.mark.parametrize("used", [0, 1])
    @pytest.mark.parametrize("chosen", [(), (fakegpu.uuid(0),)])
    def test_of_one_of_two_gpus_that_share_a_uuid(self, driver, verifier, used, chosen):
        """As those of cloned virtual machines may."""
        fakegpu.configure(driver, same_uuid=1)
        one = verifier(*chosen)
        verdict = whole_life(driver, one, gpu=used)
        assert (verdict.verified, verdict.proof) == (True, Proof.NVML_MEMORY)
        assert [gpu.freed for gpu in verdict.vram if gpu.index == used] == [3 * GIB]
        verdict = whole_life(driver, one, gpu=used, teardown_s=NEVER)
        assert not verdict.verified
        assert f"GPU {used}" in verdict.note

    def test_of_a_gpu_that_vanished_and_whose_uuid_another_has(self, driver, verifier):
        """The other one is free, which proves nothing."""
        fakegpu.configure(driver, same_uuid=1)
        one = verifier()
        with server(driver, gpu=1, teardown_s=NEVER) as kill:
            one.observe_ready()
            one.observe_before_stop()
            fakegpu.configure(driver, gpus=1)
            verdict = one.verify(kill())
        assert verdict.proof is WITHOUT_DRIVER
        assert verdict.note == "GPU 1 cannot be seen any more"
        assert verdict.vram == ()

    def test_and_nobody_is_listed_with_it(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            one.observe_before_stop()
            fakegpu.configure(driver, base_used_mib=2048)
            verdict = one.verify(kill())
        assert not verdict.verified
        assert "2.00 GiB more in use than before" in verdict.note

    def test_where_another_process_ended_meanwhile(self, driver, verifier):
        """Memory that another process gave back does not count."""
        with server(driver, 5.0) as kill_other:
            one = verifier()
            with server(driver, teardown_s=NEVER) as kill:
                one.observe_ready()
                one.observe_before_stop()
                kill_other()
                assert not one.verify(kill()).verified


class TestOthers:
    """Other processes that come and go on the same GPU make no release fail."""

    def test_one_that_came_while_it_started(self, driver, verifier):
        one = verifier()
        with server(driver) as kill, fakegpu.holding(driver, 5):
            one.observe_ready()
            one.observe_before_stop()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
        assert verdict.vram[0].after == 5 * GIB

    def test_one_that_came_while_it_ran(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            with fakegpu.holding(driver, 5):
                one.observe_before_stop()
                verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)

    def test_one_that_came_after_it(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            one.observe_before_stop()
            ended = kill()
            with fakegpu.holding(driver, 5):
                verdict = one.verify(ended)
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)

    def test_one_that_was_there_before_and_left(self, driver, verifier):
        with server(driver, 5.0) as kill_other:
            one = verifier()
            with server(driver) as kill:
                one.observe_ready()
                kill_other()
                one.observe_before_stop()
                verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_MEMORY, True)
        assert verdict.vram[0].baseline == 5 * GIB
        assert verdict.vram[0].after == 0

    @pytest.mark.parametrize("driver_says", [{"procs_unsupported": 1}, {"pid_offset": ELSEWHERE}], ids=str)
    def test_one_that_came_while_it_ran_where_nobody_is_named(self, driver, verifier, driver_says):
        fakegpu.configure(driver, **driver_says)
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            with fakegpu.holding(driver, 5):
                one.observe_before_stop()
                verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (WITHOUT_DRIVER, True)
        assert "does not say whose" in verdict.note

    def test_on_a_gpu_that_was_not_chosen(self, driver, verifier):
        fakegpu.configure(driver, procs_unsupported=1)
        one = verifier(fakegpu.uuid(0))
        with server(driver) as kill:
            one.observe_ready()
            fakegpu.configure(driver, base_used_mib__1=8192)
            one.observe_before_stop()
            verdict = one.verify(kill())
        assert verdict.verified
        assert [gpu.index for gpu in verdict.vram] == [0]


DAEMON = """
import os, sys
if os.fork():
    sys.stdin.read()
os.setsid()
if not os.fork():
    os.execve(sys.executable, [sys.executable, sys.argv[1], "hold", sys.argv[2]], {"FAKE_GPU_DIR": sys.argv[3]})
os._exit(0)
"""


@contextlib.contextmanager
def a_server_with_a_daemon(driver, gib):
    """A process that has started a daemon without any mark, which holds VRAM; yields the process and the daemon's pid."""
    words = [sys.executable, "-c", DAEMON, fakegpu.__file__, str(gib), str(driver)]
    daemon = None
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"  # the daemon's, who has inherited the pipe
            (daemon,) = (
                pid
                for pid in processes.pids()
                if f"hold {gib}" in processes.title(pid)
                and os.fsencode(driver) in Path(f"/proc/{pid}/environ").read_bytes()
                and processes.read(pid).parent != process.pid
            )
            yield process, daemon
        finally:
            process.kill()
            if daemon:
                os.kill(daemon, signal.SIGKILL)


class TestWhoCame:
    """A holder that came while the server ran, and stays, weakens the proof and is named, but makes no stop fail."""

    def test_a_daemon_of_its_own_without_a_mark(self, driver, verifier):
        one = verifier()
        with server(driver) as kill, a_server_with_a_daemon(driver, 4.0) as (process, daemon):
            one.observe_ready()
            ended = kill()
            process.kill()
            process.wait()
            verdict = one.verify(ended)
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
        assert verdict.note == (
            f"GPU 0: pid {daemon} of root holds 4.0 GiB; it came while this server ran, and is not known to belong to it"
        )

    def test_neighbours_of_another_user(self, driver, verifier):
        one = verifier()
        with (
            server(driver) as kill,
            fakegpu.holding(driver, 4, uid=NOBODY) as first,
            fakegpu.holding(driver, 2) as second,
        ):
            one.observe_ready()
            one.observe_before_stop()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
        assert verdict.note == (
            f"GPU 0: pid {first.pid} of nobody holds 4.0 GiB, pid {second.pid} of root holds 2.0 GiB; "
            "they came while this server ran, and are not known to belong to it"
        )

    @pytest.mark.parametrize("begin", [fast_starts.preloading, fast_starts.snapshot])
    @pytest.mark.parametrize("its_command_lives", [True, False])
    def test_not_a_fast_start_of_vllm(self, driver, verifier, tmp_path, begin, its_command_lives):
        """A weight cache is known without `vllm preload`; an engine without the server of its snapshot is not."""
        one = verifier()
        with server(driver) as kill, begin(driver, tmp_path, 4) as (command, holder):
            one.observe_ready()
            if not its_command_lives:
                command.kill()
                command.wait()
            verdict = one.verify(kill())
        if its_command_lives or begin is fast_starts.preloading:
            assert (verdict.proof, verdict.note) == (Proof.NVML_MEMORY, "")
        else:
            assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
            assert f"pid {holder} of" in verdict.note

    def test_not_on_a_gpu_that_was_not_used(self, driver, verifier):
        one = verifier()
        with server(driver) as kill, fakegpu.holding(driver, 4, gpu=1):
            one.observe_ready()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.note) == (Proof.NVML_MEMORY, "")

    def test_not_one_that_was_there_before(self, driver, verifier):
        with fakegpu.holding(driver, 4):
            verdict = whole_life(driver, verifier())
        assert (verdict.proof, verdict.note) == (Proof.NVML_MEMORY, "")

    def test_not_one_that_only_draws(self, driver, verifier):
        one = verifier()
        with server(driver) as kill, fakegpu.holding(driver, 0.5, lists="g"):
            one.observe_ready()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.note) == (Proof.NVML_MEMORY, "")

    def test_not_this_process(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            held = fakegpu.hold(GIB, root=driver)
            try:
                one.observe_ready()
                verdict = one.verify(kill())
            finally:
                os.close(held)
        assert (verdict.proof, verdict.note) == (Proof.NVML_MEMORY, "")

    def test_not_another_server_of_ours(self, driver, verifier, home):
        """It is recognised by the session of the leader in the ledger."""
        one = verifier()
        with server(driver) as kill, fakegpu.holding(driver, 4) as other:
            leader = processes.read(other.pid)
            path = ledger.state_folder() / IDENTIFIER
            path.mkdir(mode=0o700)
            records.write(str(path), record(leader=list(leader.identity)))
            one.observe_ready()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.note) == (Proof.NVML_MEMORY, "")

    def test_one_whose_memory_is_unknown(self, driver, verifier):
        one = verifier(fakegpu.uuid(0))
        with server(driver) as kill:
            one.observe_ready()
            ended = kill()
            fakegpu.configure(driver, proc_mem_na=1)
            with fakegpu.holding(driver, 0.01) as other:
                verdict = one.verify(ended)
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
        assert f"pid {other.pid} of root holds an unknown amount; it came while" in verdict.note

    def test_a_reused_pid_of_the_server(self, driver, verifier):
        """The driver lists the pid, which another process has now."""
        one = verifier()
        with server(driver) as kill, fakegpu.holding(driver, 4) as other:
            now = processes.read(other.pid).identity
            one.observe_ready()
            verdict = one.verify(kill() | {processes.Identity(now.pid, now.start - 1)})
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
        assert f"pid {other.pid} of root holds 4.0 GiB" in verdict.note


@pytest.mark.usefixtures("soon")
class TestWhatNobodyIsNamedFor:
    """The server's memory is back, although memory without a listed process has grown."""

    @pytest.mark.parametrize("grown", [200, 5 * 1024])
    @pytest.mark.parametrize("when", ["while it starts", "while it runs"])
    def test_that_grew_before_the_stop(self, driver, verifier, when, grown):
        one = verifier()
        with server(driver) as kill:
            if when == "while it starts":
                fakegpu.configure(driver, base_used_mib=grown)
            one.observe_ready()
            fakegpu.configure(driver, base_used_mib=grown)
            one.observe_before_stop()
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.NVML_PROCESSES, True)
        assert verdict.note == (
            f"GPU 0 has {grown / 1024:.2f} GiB more in use than before the start, and the driver lists no process that holds it"
        )

    @pytest.mark.parametrize("driver_says", [{}, {"procs_unsupported": 1}], ids=str)
    def test_that_grew_a_little_since_somebody_looked(self, driver, verifier, driver_says):
        fakegpu.configure(driver, **driver_says)
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            ended = kill()
            fakegpu.configure(driver, base_used_mib=200)
            verdict = one.verify(ended)
        proved = WITHOUT_DRIVER if driver_says else Proof.NVML_PROCESSES
        assert (verdict.proof, verdict.verified) == (proved, True)
        assert "GPU 0 has 0.20 GiB more in use than before the start" in verdict.note

    def test_of_a_process_that_draws(self, driver, verifier):
        """It is named, in a separate list."""
        with fakegpu.holding(driver, 1, lists="g"):
            one = verifier()
            with server(driver) as kill, fakegpu.holding(driver, 0.2, lists="g"):
                one.observe_ready()
                verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified, verdict.note) == (Proof.NVML_MEMORY, True, "")

    def test_what_another_gave_back_does_not_stand_for_it(self, driver, verifier):
        """No more memory is in use than before the start, but the server's memory is not back."""
        with server(driver, 5.0) as kill_other:
            one = verifier()
            with server(driver) as kill:
                one.observe_ready()
                one.observe_before_stop()
                kill_other()
                ended = kill()
                fakegpu.configure(driver, base_used_mib=3 * 1024)
                assert not one.verify(ended).verified


class TestTheStrongestThereIs:
    @pytest.mark.parametrize(
        ("driver_says", "strongest"),
        [
            ({}, Proof.NVML_MEMORY),
            ({"mem_v2_unsupported": 1}, Proof.NVML_MEMORY),
            ({"reserved_mib": 500}, Proof.NVML_MEMORY),
            ({"base_used_mib": 900}, Proof.NVML_MEMORY),
            ({"procs_unsupported": 1}, Proof.NVML_MEMORY),
            ({"proc_mem_na": 1}, Proof.NVML_MEMORY),
            ({"proc_mem_zero": 1}, Proof.NVML_MEMORY),
            ({"pid_offset": ELSEWHERE}, Proof.NVML_MEMORY),
            ({"mig": 1}, Proof.NVML_MEMORY),
            ({"mem_unsupported": 1}, Proof.NVML_PROCESSES),
            ({"mem_unsupported": 1, "procs_unsupported": 1}, WITHOUT_DRIVER),
            ({"mem_unsupported": 1, "pid_offset": ELSEWHERE}, WITHOUT_DRIVER),
        ],
        ids=str,
    )
    def test_by_what_the_driver_says(self, driver, verifier, driver_says, strongest):
        fakegpu.configure(driver, **driver_says)
        verdict = whole_life(driver, verifier(fakegpu.uuid(0)))
        assert verdict.verified
        assert verdict.proof is strongest
        assert ("does not report its memory" in verdict.note) is ("mem_unsupported" in driver_says)

    def test_the_weakest_gpu_counts(self, driver, verifier):
        fakegpu.configure(driver, mem_unsupported__1=1)
        one = verifier(fakegpu.uuid(0), fakegpu.uuid(1))
        with server(driver) as kill, server(driver, gpu=1) as kill_other:
            one.observe_ready()
            one.observe_before_stop()
            verdict = one.verify(kill() | kill_other())
        assert verdict.verified
        assert verdict.proof is Proof.NVML_PROCESSES
        assert verdict.note == "GPU 1 does not report its memory"

    def test_a_driver_that_goes_away(self, driver, verifier):
        one = verifier()
        with server(driver) as kill:
            one.observe_ready()
            one.observe_before_stop()
            fakegpu.configure(driver, crash=1)
            verdict = one.verify(kill())
        assert verdict.verified
        assert verdict.proof is WITHOUT_DRIVER
        assert "SIGSEGV" in verdict.note
        assert verdict.vram == ()

    def test_a_driver_that_was_away_for_a_moment(self, driver, verifier):
        one = verifier(fakegpu.uuid(0))
        with server(driver) as kill:
            fakegpu.configure(driver, crash=1)
            one.observe_ready()
            one.observe_before_stop()
            fakegpu.configure(driver, crash=None)
            verdict = one.verify(kill())
        assert verdict.verified
        assert verdict.proof is Proof.NVML_MEMORY
        assert [(gpu.before, gpu.after) for gpu in verdict.vram] == [(None, 0)]

    def test_a_gpu_that_is_lost(self, driver, verifier):
        one = verifier(fakegpu.uuid(1))
        with server(driver, gpu=1) as kill:
            one.observe_ready()
            fakegpu.configure(driver, gpus=1)
            verdict = one.verify(kill())
        assert verdict.proof is WITHOUT_DRIVER
        assert verdict.vram == ()

    def test_no_driver(self, probe):
        baseline = Snapshot(0.0, (), None, "no NVIDIA driver found")
        one = LocalVerifier(probe, baseline, (), MARK)
        with subprocess.Popen(["true"]) as process:
            pass
        one.observe_ready()
        one.observe_before_stop()
        verdict = one.verify({processes.Identity(process.pid, 1)})
        assert verdict == Verdict(WITHOUT_DRIVER, True, (), "no NVIDIA driver found")
        assert probe.pid is None  # it was not even asked

    def test_device_files(self, driver, probe, monkeypatch):
        files = device_files(driver / "dev")
        assert files
        monkeypatch.setattr(local_verifier, "device_files", lambda: files)
        one = LocalVerifier(probe, Snapshot(0.0, (), None, "no NVIDIA driver found"), (), MARK)
        with server(driver) as kill:
            verdict = one.verify(kill())
        assert (verdict.proof, verdict.verified) == (Proof.DEVICE_FILES, True)


class TestSomebodyIsAlive:
    def test_one_of_those_that_should_have_ended(self, driver, verifier):
        one = verifier()
        with fakegpu.holding(driver, 1) as process:
            verdict = one.verify({processes.read(process.pid).identity})
        assert verdict == Verdict(Proof.NONE, False, (), f"still alive: pid {process.pid}", may_recheck=True)

    def test_an_unknown_process_with_the_mark(self, driver, verifier):
        one = verifier()
        script = "import time; print(flush=True); time.sleep(600)"
        with (
            server(driver) as kill,
            subprocess.Popen(
                [sys.executable, "-c", script],
                env={**os.environ, "MAGIC_VLLM_SERVER": MARK.decode().partition("=")[2]},
                stdout=subprocess.PIPE,
                start_new_session=True,
            ) as fled,
        ):
            fled.stdout.readline()
            verdict = one.verify(kill())
            assert verdict == Verdict(Proof.NONE, False, (), f"still alive: pid {fled.pid}", may_recheck=True)
            fled.kill()
            fled.wait()
            assert one.verify(set()).verified

    def test_a_thread_of_a_leader_that_has_ended(self, verifier):
        one = verifier()
        script = (
            "import ctypes, os, threading, time\n"
            "def live_on():\n"
            "    while open(f'/proc/{os.getpid()}/stat').read().rpartition(') ')[2][0] != 'Z': time.sleep(0.01)\n"
            "    print(flush=True)\n"
            "    time.sleep(600)\n"
            "threading.Thread(target=live_on).start()\n"
            "ctypes.CDLL(None).pthread_exit(None)"
        )
        env = {**os.environ, "MAGIC_VLLM_SERVER": MARK.decode().partition("=")[2]}
        with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            identity = processes.read(process.pid).identity
            assert not one.verify({identity}).verified
            assert not one.verify(set()).verified  # by its mark
            process.kill()
            assert pidfd.wait_for_all([identity], 60) == set()
        assert one.verify({identity}).verified

    def test_a_pid_that_another_process_has_now(self, verifier):
        me = processes.read(os.getpid()).identity
        assert verifier().verify({processes.Identity(me.pid, me.start - 1)}).verified

    def test_this_process_is_never_it(self, monkeypatch):
        environment = processes.has_environment
        monkeypatch.setattr(
            processes, "has_environment", lambda pid, entry: pid == os.getpid() or environment(pid, entry)
        )
        assert marks.members(MARK, None) == []
