"""A GPU that is divided into parts (MIG): CUDA takes each part for a GPU, with memory and processes of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from by_hand import PatientProbe
from fake_gpu import fakegpu

from vllm_magic.doctor import gpus
from vllm_magic.doctor.survey import holders
from vllm_magic.engine.capacity import fit
from vllm_magic.errors import InvalidOption, NotEnoughMemory
from vllm_magic.gpu.devices import ComputeProcess
from vllm_magic.linux import processes
from vllm_magic.release.result import Proof

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
FIRST, SECOND = fakegpu.part(0), fakegpu.part(1)


@pytest.fixture(autouse=True)
def divided(fake_gpus) -> Path:
    """Divide GPU 0 into parts of 10 and 20 GiB; GPU 1 is whole."""
    sizes = {f"total_mib__{FIRST}": 10240, f"total_mib__{SECOND}": 20480}
    fakegpu.configure(fake_gpus, mig__0=1, mig_parts__0=2, **sizes)
    return fake_gpus


@pytest.fixture
def probe():
    with contextlib.closing(PatientProbe()) as made:
        yield made


def test_the_parts_are_seen_in_place_of_the_gpu(divided, probe):
    with fakegpu.holding(divided, 2, SECOND) as holder:
        first, second, whole = probe.snapshot().gpus
    assert [one.index for one in (first, second, whole)] == ["0:0", "0:1", 1]
    assert [one.uuid for one in (first, second, whole)] == [fakegpu.uuid(one) for one in (FIRST, SECOND, 1)]
    assert [one.is_part for one in (first, second, whole)] == [True, True, False]
    assert second.name == "NVIDIA FakeGPU 24GB MIG 1g.20gb"
    assert (first.total, first.used, first.processes) == (10 * GIB, 0, ())
    assert (second.total, second.used, second.free) == (20 * GIB, 2 * GIB, 18 * GIB)
    assert second.processes == (ComputeProcess(holder.pid, 2 * GIB),)
    assert second.capability == (8, 9)


def test_a_divided_gpu_without_parts(divided, probe):
    fakegpu.configure(divided, mig_parts__0=0)
    assert [(one.index, one.processes) for one in probe.snapshot().gpus] == [(0, None), (1, ())]


@pytest.mark.parametrize("by", ["index", "UUID"])
def test_a_server_on_a_part(manager, spec, divided, traces, by):
    """A neighbour on the other part is none of its business."""
    wanted = "0:1" if by == "index" else fakegpu.uuid(SECOND).lower()
    server = manager.start(spec(gpus=wanted), timeout=60).server
    assert processes.environment(server.pid)["CUDA_VISIBLE_DEVICES"] == fakegpu.uuid(SECOND)
    with fakegpu.holding(divided, 3, FIRST):
        release = server.stop()
    assert (release.verified, release.proof, release.note) == (True, Proof.NVML_MEMORY, "")
    assert [(gpu.index, gpu.freed) for gpu in release.vram] == [("0:1", 2 * GIB)]
    traces.check()


def test_a_neighbour_on_the_same_part_is_named(manager, spec, divided):
    server = manager.start(spec(gpus="0:1"), timeout=60).server
    with fakegpu.holding(divided, 3, SECOND) as neighbour:
        release = server.stop()
    assert (release.verified, release.proof) == (True, Proof.NVML_PROCESSES)
    assert "GPU 0:1" in release.note
    assert str(neighbour.pid) in release.note


def test_auto_takes_the_part_with_the_most_free_memory(manager, spec, divided):
    with fakegpu.holding(divided, 20, 1):
        server = manager.start(spec(gpus="auto"), timeout=60).server
        assert [gpu.index for gpu in server.stop().vram] == ["0:1"]


def test_one_that_does_not_fit_on_its_part(manager, spec, divided):
    with (
        fakegpu.holding(divided, 8, FIRST),
        pytest.raises(NotEnoughMemory, match=r"GPU 0:0 has 2\.0 GiB free"),
    ):
        manager.start(spec(gpus="0:0"))


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("0", r"GPU 0 is divided \(MIG\): name one of its parts, 0:0 \(MIG-[\w-]+\), 0:1"),
        ("0:7", "there is no GPU '0:7': there are 0:0"),
        ("0:0,1", "CUDA shows a program only one part: name it alone"),
        ("MIG-", "fits 2 GPUs: write more of the UUID"),
    ],
)
def test_what_cannot_be_chosen(manager, spec, wanted, why):
    with pytest.raises(InvalidOption, match=why):
        manager.start(spec(gpus=wanted))


def test_a_vllm_that_reads_no_uuids(manager, spec, monkeypatch):
    monkeypatch.setattr("vllm_magic.engine.executable.version", lambda _: "0.20.2")
    with pytest.raises(
        InvalidOption, match=r"vLLM 0.20.2 reads only indices .* a part of a GPU \(MIG\) has none"
    ):
        manager.start(spec(gpus="0:1"))


def test_who_holds_what(divided, probe):
    with fakegpu.holding(divided, 2, SECOND) as holder:
        now, used = holders(probe)
    text = repr(gpus.view(now, used))
    assert "0:1: NVIDIA FakeGPU 24GB MIG 1g.20gb" in text
    assert f"(pid {holder.pid}" in text
    assert "does not list processes" not in text


@pytest.mark.parametrize(("wanted", "totals"), [("0:1", [20]), ("0:0", [10])])
def test_fit_counts_the_memory_of_the_part(spec, probe, wanted, totals):
    rooms = fit.claim(spec(gpus=wanted), {}, probe.snapshot())
    assert [room.total // GIB for room in rooms] == totals
