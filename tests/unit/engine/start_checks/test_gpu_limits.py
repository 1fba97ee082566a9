"""Too few GPUs, and GPUs that are too old for what is asked of them, are said before the start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import gpu_limits
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import InvalidOption
from vllm_magic.gpu.devices import Gpu, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
T4, V100, H100 = (7, 5), (7, 0), (9, 0)


def gpu(index: int, capability: tuple[int, int] | None = H100, name: str = "NVIDIA") -> Gpu:
    return Gpu(index, f"GPU-{index}", name, 80 * GIB, 0, 80 * GIB, (), capability)


def check(
    *words: str,
    gpus: tuple[Gpu, ...] = (gpu(0), gpu(1)),
    version: str = "0.32.0",
    env: dict[str, str] | None = None,
    model: str = "m",
) -> None:
    start = PlannedStart(
        ServerSpec(model, words), env or {}, "/nowhere/vllm", Snapshot(0.0, gpus, "580.00", None)
    )
    start.table = FlagTable(version, (FlagOption(("--dtype",)),))
    gpu_limits.check(start)


class TestCount:
    @pytest.mark.parametrize(
        "words",
        [
            "",
            "-tp 2",
            "-tp 1 -pp 2",
            "-tp many",
            "-tp 4 --distributed-executor-backend ray",
            "-tp 4 --distributed-executor-backend external_launcher",
            "-tp 4 --nnodes 2",
            "-tp 4 -n=2",
            "-tp 4 --data-parallel-backend ray",
            "-dp 4",  # vLLM's own check does not count it
        ],
    )
    def test_what_vllm_may_accept(self, words):
        check(*words.split())

    @pytest.mark.parametrize(
        "how",
        [
            {"version": "0.32.0+cpu"},
            {"version": "0.14.0"},  # an older vLLM takes Ray unasked
            {"version": "0.99.0"},
            {"version": ""},
            {"gpus": ()},
            {"env": {"CUDA_VISIBLE_DEVICES": ""}},
            {"env": {"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2,MIG-3,MIG-4"}},
        ],
        ids=str,
    )
    def test_where_it_is_not_certain(self, how):
        check("-tp", "4", **how)

    def test_without_a_snapshot(self):
        gpu_limits.check(PlannedStart(ServerSpec("m", ("-tp", "4")), {}, "/nowhere/vllm"))

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                "-tp 4",
                "--tensor-parallel-size 4 needs 4 GPUs, and the server has 2. Use --tensor-parallel-size 2, or",
            ),
            ("-tp 2 -pp 2", "--tensor-parallel-size 2 x --pipeline-parallel-size 2 needs 4 GPUs, and"),
            ("-pp 3", "--pipeline-parallel-size 3 needs 3 GPUs, and the server has 2. Ask for fewer, or"),
            ("--tensor_parallel_size=8 --distributed-executor-backend mp", "Use --tensor-parallel-size 2"),
        ],
    )
    def test_too_many(self, words, said):
        with pytest.raises(InvalidOption) as refused:
            check(*words.split())
        assert said in str(refused.value)

    def test_the_backend_of_one_machine(self):
        with pytest.raises(InvalidOption):
            check("-tp", "4", "--distributed-executor-backend", "mp", version="0.14.0")
        check("-tp", "4", "--distributed-executor-backend", "mp", version="")  # perhaps one for CPUs

    def test_only_visible_gpus_count(self):
        for listed in ("1", "0,9", "GPU-1"):
            with pytest.raises(InvalidOption, match="the server has 1"):
                check("-tp", "2", env={"CUDA_VISIBLE_DEVICES": listed})
        check("-tp", "2", env={"CUDA_VISIBLE_DEVICES": "1,0"})

    def test_chosen_gpus(self):
        with pytest.raises(InvalidOption, match="2 GPUs are needed and '1' names 1"):
            check_chosen("1", "-tp", "2")
        with pytest.raises(InvalidOption, match="4 GPUs are needed and there are only 2"):
            check_chosen("auto", "-tp", "4")
        with pytest.raises(InvalidOption, match="there is no GPU '7'"):
            check_chosen("7")
        check_chosen("auto", "-tp", "2")
        check_chosen("1,0", "-tp", "2")


def check_chosen(gpus: str, *words: str, capabilities: tuple[tuple[int, int], ...] = (H100, H100)) -> None:
    there = tuple(gpu(index, one) for index, one in enumerate(capabilities))
    start = PlannedStart(
        ServerSpec("m", words, gpus=gpus), {}, "/nowhere/vllm", Snapshot(0.0, there, "580.00", None)
    )
    start.table = FlagTable("0.32.0", (FlagOption(("--dtype",)),))
    gpu_limits.check(start)


class TestCapability:
    @pytest.mark.parametrize(
        ("words", "gpus"),
        [
            ("", (gpu(0, T4),)),
            ("--dtype auto", (gpu(0, T4),)),
            ("--dtype half", (gpu(0, T4),)),
            ("--dtype bfloat16", (gpu(0, (8, 0)),)),
            ("--dtype bfloat16", (gpu(0, None),)),
            ("--dtype bfloat16", (gpu(0, T4), gpu(1, H100))),  # vLLM may take either
            ("--dtype bfloat16", (gpu(0, T4), gpu(1, None))),
            ("--quantization fp8", (gpu(0, T4),)),
            ("--quantization awq", (gpu(0, T4),)),
            ("--quantization gptq", (gpu(0, V100),)),
            ("--quantization compressed-tensors", (gpu(0, V100),)),
        ],
    )
    def test_what_vllm_may_accept(self, words, gpus):
        check(*words.split(), gpus=gpus)

    @pytest.mark.parametrize(
        ("words", "capability", "said"),
        [
            (
                "--dtype bfloat16",
                T4,
                "--dtype bfloat16 needs a GPU of compute capability 8.0, and Tesla T4 has 7.5. Use --dtype half.",
            ),
            (
                "--quantization fp8",
                V100,
                "--quantization fp8 needs a GPU of compute capability 7.5, and Tesla T4 has 7.0. Use another",
            ),
            ("-q=mxfp4", T4, "--quantization mxfp4 needs a GPU of compute capability 8.0"),
        ],
    )
    def test_what_no_vllm_accepts(self, words, capability, said):
        with pytest.raises(InvalidOption) as refused:
            check(*words.split(), gpus=(gpu(0, capability, "Tesla T4"),))
        assert str(refused.value).startswith(said)

    def test_the_chosen_gpu_counts(self):
        check_chosen("1", "--dtype", "bfloat16", capabilities=(T4, H100))
        with pytest.raises(InvalidOption, match=r"NVIDIA has 7\.5"):
            check_chosen("0", "--dtype", "bfloat16", capabilities=(T4, H100))

    @pytest.mark.parametrize("version", ["", "0.14.0", "0.99.0", "0.32.0+cpu"])
    def test_a_version_whose_limits_are_not_known(self, version):
        check("-q", "fp8", gpus=(gpu(0, V100),), version=version)

    @pytest.mark.parametrize("version", ["", "0.32.0+cpu", "0.32.1.dev5+g0123abc.cpu", "0.32.0+rocm700"])
    def test_a_vllm_for_another_device(self, version):
        check("--dtype", "bfloat16", gpus=(gpu(0, T4),), version=version)

    @pytest.mark.parametrize("version", ["0.9.0", "0.32.0", "0.32.0+cu129", "0.99.0"])
    def test_a_vllm_for_this_one(self, version):
        with pytest.raises(InvalidOption):
            check("--dtype", "bfloat16", gpus=(gpu(0, T4),), version=version)

    def test_the_quantization_of_the_model(self, tmp_path: Path):
        def with_method(method: object) -> str:
            stored = {"quantization_config": {"quant_method": method}}
            (tmp_path / "config.json").write_text(json.dumps(stored))
            return str(tmp_path)

        with pytest.raises(InvalidOption, match=r"The model is quantized with awq, which needs .* 7.5"):
            check(model=with_method("awq"), gpus=(gpu(0, V100),))
        check("-q", "moe_wna16", model=with_method("awq"), gpus=(gpu(0, V100),))
        check("--hf-overrides", "{}", model=with_method("awq"), gpus=(gpu(0, V100),))
        check(model=with_method("awq"), gpus=(gpu(0, T4),))
        check(model=with_method(1), gpus=(gpu(0, V100),))
