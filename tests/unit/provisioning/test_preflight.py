"""Memory need against free memory before a start: who is refused, and what he is told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from records import IDENTIFIER, record

from vllm_magic.engine import command
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.gpu.visible import visible
from vllm_magic.ledger import Condition, Entry
from vllm_magic.linux import processes
from vllm_magic.linux.processes import Identity
from vllm_magic.provisioning import preflight

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


class TestVisible:
    ALIKE = (gpu(0, 24), gpu(1, 24), gpu(2, 24))
    MIXED = (gpu(0, 24, L4), gpu(1, 24), gpu(2, 24))

    @pytest.mark.parametrize(
        ("environ", "indices"),
        [
            ({}, [0, 1, 2]),
            ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
            ({"CUDA_VISIBLE_DEVICES": " 1 , 2 "}, [1, 2]),
            ({"CUDA_VISIBLE_DEVICES": "GPU-2aaa-2,GPU-0"}, [2, 0]),
            ({"CUDA_VISIBLE_DEVICES": "1,7,2"}, [1]),
            ({"CUDA_VISIBLE_DEVICES": "0,-1,2"}, [0]),
            ({"CUDA_VISIBLE_DEVICES": ""}, []),
            ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
            ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
            ({"CUDA_VISIBLE_DEVICES": "MIG-5ab3"}, []),
            ({"CUDA_VISIBLE_DEVICES": "GPU-"}, []),  # fits several
        ],
    )
    def test_gpus_of_one_kind(self, environ, indices):
        seen = visible(self.ALIKE, environ)
        assert ([one.index for one in seen.gpus], seen.ordered) == (indices, True)

    @pytest.mark.parametrize("words", [None, "0", "2,1"])
    def test_of_several_kinds_the_order_is_not_known(self, words):
        environ = {} if words is None else {"CUDA_VISIBLE_DEVICES": words}
        assert visible(self.MIXED, environ) == (self.MIXED, False)
        environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        assert visible(self.MIXED, environ).ordered

    def test_a_uuid_is_one_in_any_order(self):
        seen = visible(self.MIXED, {"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-0"})
        assert ([one.index for one in seen.gpus], seen.ordered) == ([2, 0], True)

    @pytest.mark.parametrize(
        ("words", "indices"),
        [
            (None, None),  # CUDA shows a part, and does not say which
            ("0", None),
            ("1", None),
            ("GPU-of-the-whole", None),
            ("MIG-0:1", ["0:1"]),
            ("mig-0:0", ["0:0"]),
            ("GPU-1", [1]),
            ("0:1", []),  # CUDA knows no such index
            ("", []),
        ],
    )
    def test_parts_of_a_gpu(self, words, indices):
        parts = tuple(replace(gpu(0, 24), index=index, uuid=f"MIG-{index}") for index in ("0:0", "0:1"))
        seen = visible((*parts, gpu(1, 24)), {} if words is None else {"CUDA_VISIBLE_DEVICES": words})
        assert seen.ordered == (indices is not None)
        assert [one.index for one in seen.gpus] == (["0:0", "0:1", 1] if indices is None else indices)


def lacking(now: Snapshot, *args: str, chosen=(), environ=None, **fields):
    return preflight.shortage(ServerSpec("m", args, **fields), environ or {}, now, chosen)


class TestShortage:
    def test_vllms_rule_to_the_byte(self):
        total = 24 * GIB
        enough = -(-total * 92 // 100)
        assert lacking(snapshot(Gpu(0, "GPU-0", H100, total, 0, enough, ()))) is None
        (short,) = lacking(snapshot(Gpu(0, "GPU-0", H100, total, 0, enough - 1, ()))).short
        assert short.index == 0

    def test_the_first_gpus_that_cuda_shows(self):
        assert lacking(snapshot(gpu(0, 24), gpu(1, 2))) is None
        assert lacking(snapshot(gpu(0, 2), gpu(1, 24))).short[0].index == 0
        assert lacking(snapshot(gpu(0, 2), gpu(1, 24)), environ={"CUDA_VISIBLE_DEVICES": "1"}) is None
        assert lacking(snapshot(gpu(0, 24), gpu(1, 2)), "-tp", "2").short[0].index == 1

    def test_the_environment_of_the_server_goes_before_the_kernels(self):
        now = snapshot(gpu(0, 2), gpu(1, 24))
        env = (("CUDA_VISIBLE_DEVICES", "1"),)
        assert lacking(now, environ={"CUDA_VISIBLE_DEVICES": "0"}, env=env) is None

    def test_the_chosen_ones(self):
        one, two = gpu(0, 24), gpu(1, 2)
        assert lacking(snapshot(one, two), chosen=(one, two), gpus="0,1") is None  # vLLM takes the first
        assert lacking(snapshot(one, two), chosen=(two, one), gpus="1,0").short == (two,)

    def test_of_several_kinds_it_is_refused_only_if_it_fits_nowhere(self):
        assert lacking(snapshot(gpu(0, 2, L4), gpu(1, 24))) is None
        assert lacking(snapshot(gpu(0, 2, L4), gpu(1, 24)), "-tp", "2").short[0].index == 0
        assert len(lacking(snapshot(gpu(0, 2, L4), gpu(1, 3))).short) == 2

    @pytest.mark.parametrize(
        "args",
        [
            ["--kv-cache-memory-bytes", "1G"],
            ["--gpu-memory-utilization", "0.05"],
            ["--gpu-memory-utilization", "1.5"],
            ["--gpu_memory_utilization=0.05"],
            ["--gpu-memory-utilization", "abc"],
            ["-tp", "4"],  # more than there are: vLLM says so, or uses other machines too
        ],
    )
    def test_what_is_vllms_to_judge(self, args):
        assert lacking(snapshot(gpu(0, 2), gpu(1, 2)), *args) is None

    def test_a_flag_goes_before_the_file(self, tmp_path):
        file = tmp_path / "v.yaml"
        file.write_text("gpu-memory-utilization: 0.01")
        assert lacking(snapshot(gpu(0, 2)), "--config", str(file)) is None
        assert lacking(snapshot(gpu(0, 2)), "--config", str(file), "--gpu-memory-utilization", "0.9")

    def test_a_rank_on_another_machine_is_not_counted(self):
        now = snapshot(gpu(0, 24), gpu(1, 2))
        assert lacking(now, "-dp", "2", "--data-parallel-size-local", "1") is None
        assert lacking(now, "-dp", "2")

    def test_a_driver_that_does_not_tell(self):
        assert lacking(snapshot(gpu(0, None))) is None
        assert lacking(snapshot(gpu(0, 2, processes=None))) is None  # MIG
        assert lacking(snapshot()) is None

    def test_forced(self):
        assert lacking(snapshot(gpu(0, 2)), force=True) is None

    @pytest.mark.parametrize(
        ("free", "fitting"),
        [(14, 0.54), (13, 0.5), (12.99, 0.49), (3.5, 0.1), (3.3, None), (0, None)],
    )
    def test_what_would_fit_is_rounded_down(self, free, fitting):
        """A GiB is left for the context of the process itself."""
        assert lacking(snapshot(gpu(0, free))).fitting == fitting

    def test_what_would_fit_on_all_of_them(self):
        now = snapshot(gpu(0, 13), gpu(1, 7), gpu(2, 10))
        assert lacking(now, "-tp", "2").fitting == 0.25
        assert lacking(now, "-tp", "2", gpus="auto").fitting == 0.37  # the two freest
        assert lacking(snapshot(gpu(0, 13, L4), gpu(1, 7))).fitting == 0.25  # whichever comes first

    def test_nothing_smaller_is_offered_where_nothing_smaller_fits(self):
        now = snapshot(gpu(0, 12.5))
        assert lacking(now, "--gpu-memory-utilization", "0.53").fitting == 0.47
        assert lacking(snapshot(gpu(0, 2.9)), "--gpu-memory-utilization", "0.125").fitting is None


def test_counting_gpus():
    assert command.gpu_count(("-tp", "2", "-dp", "4", "-dpl", "1")) == 2
    assert command.gpu_count(("-tp", "2", "-dp", "4")) == 8


class TestOwners:
    """A process is told by its pid and its start time: a pid alone may be that of another process by now."""

    ME = processes.read(os.getpid())

    def entry(self, kernel, condition=Condition.OWNED) -> Entry:
        return Entry(Path(f"/nowhere/{IDENTIFIER}"), condition, record(name="mine", kernel=list(kernel)))

    def ways_out(self, entry: Entry, known: Identity) -> list[str]:
        now = gpu(0, 2, processes=(ComputeProcess(os.getpid(), 22 * GIB),))
        found = preflight.holders([now], {os.getpid(): self.ME}, {known: entry})
        owned = [one.server for one in found]
        ways = preflight._ways_out(lacking(snapshot(now)), found, {os.getpid(): self.ME}, {known: entry})
        return [*owned, *(way for way in ways if "mine" in way)]

    def test_a_server_of_this_kernel(self):
        me = self.ME.identity
        assert self.ways_out(self.entry(me), me) == ["mine", "%vllm stop mine"]

    def test_a_server_of_a_kernel_that_had_this_pid_before(self):
        me = self.ME.identity
        assert self.ways_out(self.entry((me.pid, me.start - 1)), me) == [
            "mine",
            "vllm-magic stop mine  in a terminal: it belongs to another kernel",
        ]

    def test_a_process_of_a_server_that_had_the_pid_of_the_holder_before(self):
        me = self.ME.identity
        assert self.ways_out(self.entry(me), Identity(me.pid, me.start - 1)) == [""]

    def test_a_process_that_proc_hides(self):
        known = Identity(os.getpid(), processes.HIDDEN)
        now = gpu(0, 2, processes=(ComputeProcess(os.getpid(), 22 * GIB),))
        (found,) = preflight.holders([now], {}, {known: self.entry(self.ME.identity)})
        assert found.server == "mine"
