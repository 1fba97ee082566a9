"""Memory need against free memory before a start: who is refused, and what he is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from by_hand import until
from fake_gpu import fakegpu

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import NotEnoughMemory, StartFailed
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.linux import processes
from vllm_magic.provisioning import launch, preflight

GIB = 2**30
H100, L4 = "NVIDIA H100", "NVIDIA L4"


def gpu(index: int, free: float | None, name: str = H100, total: float = 24, processes=()) -> Gpu:
    in_bytes = None if free is None else int(free * GIB)
    used = None if in_bytes is None else int(total * GIB) - in_bytes
    return Gpu(
        index, f"GPU-{index}aaa-{index}", name, None if free is None else int(total * GIB), used, in_bytes, processes
    )  # fmt: skip


def snapshot(*gpus: Gpu) -> Snapshot:
    return Snapshot(0.0, gpus, None, None)


def lacking(now: Snapshot, *args: str, chosen=(), environ=None, **fields):
    return preflight.shortage(ServerSpec("m", args, **fields), environ or {}, now, chosen)


@pytest.mark.usefixtures("fake_gpus")
class TestStart:
    def refused(self, manager, spec) -> NotEnoughMemory:
        with pytest.raises(NotEnoughMemory) as caught:
            manager.start(spec, timeout=60)
        assert "\n" not in str(caught.value)
        return caught.value

    def test_who_holds_it_and_the_ways_out(self, manager, spec, fake_gpus, traces):
        with fakegpu.holding(fake_gpus, 10, 0) as holder:
            error = self.refused(manager, spec())
            (held,) = error.holders
        assert (held.gpu, held.pid, held.used, held.server) == (0, holder.pid, 10 * GIB, "")
        assert held.name == f"{os.path.basename(sys.executable)} fakegpu.py"
        assert held.user == subprocess.check_output(["id", "-un"], text=True).strip()
        assert str(error) == (
            "tiny does not fit: GPU 0 has 14.0 GiB free of 22.1 GiB needed. "
            f"Held by {held.name} (pid {holder.pid}, {held.user}): 10.0 GiB."
        )
        assert error.details == [
            "  --gpu-memory-utilization 0.54  would fit",
            "  force=True  starts it all the same",
        ]
        assert manager.servers() == {}
        traces.check()

    def test_what_would_fit_does(self, manager, spec, fake_gpus):
        with fakegpu.holding(fake_gpus, 10, 0):
            way = self.refused(manager, spec()).details[0].split()
            manager.start(spec("tiny", way[0], way[1]), timeout=60).server.stop()

    def test_forced_it_starts(self, manager, spec, fake_gpus):
        with fakegpu.holding(fake_gpus, 20, 0), fakegpu.holding(fake_gpus, 20, 1):
            assert manager.start(spec(force=True), timeout=60).server.stop().verified
            assert manager.start(spec(force=True, gpus="auto"), timeout=60).server.stop().verified

    def test_a_server_of_this_kernel(self, manager, spec):
        manager.start(spec(name="first", faults={"vram": 5 * GIB}), timeout=60)
        error = self.refused(manager, spec(name="second"))
        assert [(one.server, one.used) for one in error.holders] == [("first", 5 * GIB)]
        assert "Held by server first (pid " in str(error)
        assert '  vllm_magic.stop("first")' in error.details
        manager.stop("first")
        manager.start(spec(name="second"), timeout=60)

    def test_a_server_of_another_kernel(self, manager, spec, executable):
        program = (
            f"import vllm_magic, sys; vllm_magic.start('tiny', name='other', executable={executable!r}); "
            "print('up', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as kernel:
            assert kernel.stdout.readline() == "up\n"
            error = self.refused(manager, spec())
            kernel.stdin.close()
        assert [one.server for one in error.holders] == ["other"]
        assert "  vllm-magic stop other  in a terminal: it belongs to another kernel" in error.details

    def test_a_vllm_that_nobody_owns(self, manager, spec, executable, tmp_path):
        """Started by hand, and its API server killed: its engine stays (vllm-project/vllm#55510)."""
        with open(tmp_path / "log", "w") as log:
            leader = subprocess.Popen(
                [executable, "serve", "tiny", "--port", "0", "-tp", "2"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            until(lambda: all(one.used for one in manager.gpus().gpus), "it does not take its memory")
            error = self.refused(manager, spec())
            assert not [line for line in error.details if "reap" in line]  # its owner lives
            engine = {
                one.identity.pid
                for one in processes.table().values()
                if one.parent == leader.pid and "EngineCore" in processes.shown_name(one)
            }
            leader.kill()
            leader.wait()
            error = self.refused(manager, spec())
            (line,) = [line for line in error.details if "reap" in line]
            assert line == f"  vllm-magic reap --pid {engine.pop()}  releases a vLLM that nobody owns"
            assert error.holders[0].name.startswith("VLLM::")
        finally:
            os.killpg(leader.pid, signal.SIGKILL)
            leader.wait()

    def test_memory_that_nobody_is_named_for(self, manager, spec, fake_gpus):
        fakegpu.configure(fake_gpus, base_used_mib__0=12288)
        error = self.refused(manager, spec())
        assert [(one.pid, one.used) for one in error.holders] == [(None, 12 * GIB)]
        assert str(error).endswith("Held by no process that the driver names: 12.0 GiB.")

    def test_more_holders_than_fit_on_a_line(self, manager, spec, fake_gpus):
        with (
            fakegpu.holding(fake_gpus, 2, 0),
            fakegpu.holding(fake_gpus, 5, 0),
            fakegpu.holding(fake_gpus, 3, 0),
            fakegpu.holding(fake_gpus, 4, 0),
        ):
            error = self.refused(manager, spec())
        assert [one.used // GIB for one in error.holders] == [5, 4, 3, 2]
        assert ": 3.0 GiB, and 1 more." in str(error)
        assert sum("(pid " in line for line in error.details) == 4

    def test_auto_with_no_gpu_that_has_room(self, manager, spec, fake_gpus):
        with fakegpu.holding(fake_gpus, 10, 0), fakegpu.holding(fake_gpus, 4, 1):
            error = self.refused(manager, spec(gpus="auto"))
            assert "GPU 0 has 14.0 GiB" in str(error)
            assert "GPU 1 has 20.0 GiB" in str(error)
            assert {one.gpu for one in error.holders} == {0, 1}
            assert error.details[0] == "  --gpu-memory-utilization 0.79  would fit"

    @pytest.mark.parametrize("gpus", [None, "0", "auto"])
    def test_memory_that_is_coming_back_is_waited_for(self, manager, spec, fake_gpus, gpus, monkeypatch):
        monkeypatch.setattr(launch, "COMING_BACK", 30.0)
        with fakegpu.holding(fake_gpus, 10, 0, teardown_s=1.0) as holder, fakegpu.holding(fake_gpus, 10, 1):
            threading.Timer(1.0, holder.kill).start()
            assert manager.start(spec(gpus=gpus), timeout=60).server.state == "ready"

    def test_auto_waits_for_a_release_that_gives_it_room(self, manager, spec, fake_gpus):
        """The driver takes longer for it than a start waits for memory of which nobody says that it comes."""
        slow = {"vram": 10 * GIB, "vram_teardown_s": launch.COMING_BACK + 1}
        one = manager.start(spec(name="one", gpus="0", faults=slow), timeout=60).server
        with fakegpu.holding(fake_gpus, 10, 1):
            one._run.begin_stop()
            server = manager.start(spec(name="two", gpus="auto"), timeout=60).server
        assert one.release.verified
        assert server.state == "ready"

    def test_a_stop_while_it_waits_for_memory(self, manager, spec, fake_gpus, monkeypatch):
        monkeypatch.setattr(launch, "COMING_BACK", 60.0)
        with fakegpu.holding(fake_gpus, 10, 0):
            server = manager.start(spec(), wait=False).server
            time.sleep(1)
            assert server.state == "starting"
            assert server.stop().seconds < 30

    @pytest.mark.parametrize(
        "config", [{"mem_unsupported": 1}, {"procs_unsupported": 1}, {"mig": 1}], ids=str
    )
    def test_a_driver_that_says_less(self, manager, spec, fake_gpus, config):
        fakegpu.configure(fake_gpus, **config)
        with fakegpu.holding(fake_gpus, 20, 0):
            assert manager.start(spec(), timeout=60).server.state == "ready"

    def test_pids_of_another_namespace(self, manager, spec, fake_gpus):
        fakegpu.configure(fake_gpus, pid_offset=100_000_000)
        with fakegpu.holding(fake_gpus, 10, 0):
            error = self.refused(manager, spec())
        assert (error.holders[0].name, error.holders[0].user) == ("a process that is not visible here", "")

    def test_no_gpu_for_cuda(self, manager, spec, fake_gpus):
        """vLLM says so itself."""
        with fakegpu.holding(fake_gpus, 20, 0), pytest.raises(StartFailed):
            manager.start(spec(env={"CUDA_VISIBLE_DEVICES": ""}), timeout=60)


def test_a_secret_in_a_command_line_is_not_shown():
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "--token=hf_secret"]
    ) as holder:
        try:
            process = ComputeProcess(holder.pid, 20 * GIB)
            error = preflight.refusal("m", lacking(snapshot(gpu(0, 4, processes=(process,)))))
        finally:
            holder.kill()
    assert "hf_secret" not in f"{error}{error.details}{error.holders}"
    assert error.holders[0].pid == holder.pid
