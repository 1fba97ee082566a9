"""Failures from public reports: each is explained, with a remedy, from the log that the report has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_magic.engine.failures.explanations import Failure, explain
from vllm_magic.engine.failures.hints import HintContext
from vllm_magic.engine.failures.machine_facts import MachineFacts
from vllm_magic.engine.flags import flags
from vllm_magic.sizes import GIB

FILE = Path(__file__).parents[3] / "reported_failures.txt"
REPORTS = {
    part.split(maxsplit=1)[0]: part.rstrip("\n").split("\n")[1:]
    for part in re.split(r"^## ", FILE.read_text(), flags=re.MULTILINE)[1:]
}
LIMITED = MachineFacts(shared_memory=GIB // 16, memory_limit=16 * GIB, processes=512)

# By the name of the report: what is said of it. A part of each text suffices.
SAID = {
    "ninja": ("the program ninja is not found", "/v/bin/python -m pip install ninja"),
    "ninja_died": ("the program ninja is not found", "/v/bin/python -m pip install ninja"),
    "nvcc": ("there is no CUDA compiler (nvcc)", "flashinfer-jit-cache"),
    "python_h": ("The header files of Python are missing", "apt install python3-dev"),
    "driver_old": ("The NVIDIA driver runs CUDA 12.8 at most", "580 or newer runs CUDA 13"),
    "driver_old_infer": ("The NVIDIA driver runs CUDA 12.8 at most", "built for CUDA 12"),
    "mig_uuid": (
        "looks at the architecture LlamaForCausalLM has failed",
        "CUDA_VISIBLE_DEVICES: give indices",
    ),
    "shm_nccl": ("/dev/shm is full: it has 0.06 GiB", "--shm-size=8g"),
    "memory_profiling": ("gave back GPU memory", "Start it again"),
    "lora_rank": ("rank 64", "--max-lora-rank 64"),
    "fp8e4nv": ("compute capability 8.9", "quantized otherwise"),
    "compile_cache": ("cache of compiled models is damaged", "Remove ~/.cache/vllm/torch_compile_cache"),
    "uva": ("pinned memory", "--env VLLM_WSL2_ENABLE_PIN_MEMORY=1"),
    "dist_port": ("Port 29500 is taken", "not the server's own port"),
    "vllm_port": ("VLLM_PORT is tcp://10.96.193.120:6785", "enableServiceLinks: false"),
    "world": ("8 GPUs are asked for, and this machine shows 4", "--tensor-parallel-size to 4"),
    "notok": ("no tokenizer that can be loaded", "--tokenizer NAME"),
    "noconnect": ("There is no way to https://huggingface.co", "HTTPS_PROXY, set HF_ENDPOINT"),
    "noconnect2": ("There is no way to huggingface.co", "HTTPS_PROXY, set HF_ENDPOINT"),
    "numba": ("NumPy 2.3 is too new for the numba", "/v/bin/python -m pip install 'numpy<=2.2'"),
    "double_prefix": ("head_size 100 is strange", ""),
    "oom_host": ("did not say why", "the container may use 16.0 GiB"),
    "old_08": ("bfloat16 needs a GPU of compute capability 8.0", "--dtype half"),
    "mamba_blocks": ("118 fit", "--max-num-seqs 118"),
    "pidlimit": ("No more processes or threads can be made: the limit is 512", "ulimit -u"),
    "missing_lib": ("The library libGL.so.1 is missing", "libgl1"),
    "vocab": ("lm_head.weight_scale", "--quantization"),
    "t4_shared": ("needs 96 KiB of the GPU's shared memory, and this GPU has 64", "attention backend"),
}


def explained(name: str, machine: MachineFacts = LIMITED) -> Failure:
    return explain(REPORTS[name], 1, HintContext(flags.COMMON, "some/model", "/v/bin/python", machine))


def test_each_report_is_tried():
    assert REPORTS.keys() == SAID.keys()


@pytest.mark.parametrize("name", SAID)
def test_it_is_explained(name):
    failure = explained(name)
    cause, hint = SAID[name]
    assert cause in failure.cause
    assert hint in failure.hint
    assert failure.lines
    assert not failure.port_taken


def test_memory_that_ran_out_for_certain():
    failure = explained("oom_host", MachineFacts(memory_limit=16 * GIB, was_out_of_memory=True))
    assert failure.cause == (
        "The engine ended, and the kernel has killed a process because memory ran out (the container may use 16.0 GiB)"
    )


def test_the_process_that_failed_first_has_the_cause():
    worker = "(Worker_TP0 pid=88) ERROR 06-20 12:27:30 [multiproc_executor.py:962] "
    said = [
        f"{worker}RuntimeError: No CUDA GPUs are available",
        "(EngineCore pid=77) ERROR 06-20 12:27:37 [core.py:1341] FileNotFoundError: [Errno 2] No such file or directory: 'ninja'",
    ]
    assert explain(said, 1).cause == "CUDA finds no GPU"
    assert explain(said[::-1], 1).cause == "A kernel is to be compiled, and the program ninja is not found"


@pytest.mark.parametrize("code", ["-9", "None"])
def test_an_error_before_the_end_of_a_process_is_the_cause_and_one_after_it_is_none(code):
    worker = "(Worker_TP0 pid=88) ERROR 06-20 12:27:30 [multiproc_executor.py:962] "
    error = f"{worker}ValueError: head_size 100 is strange"
    end = (
        "(EngineCore pid=77) ERROR 06-20 12:27:38 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly "
        f"(exit code: {code}), shutting down executor."
    )
    later = "(EngineCore pid=77) ERROR 06-20 12:27:39 [core.py:1341] RuntimeError: cancelled"
    assert explain([error, end, later], 1).cause == "head_size 100 is strange"
    assert explain([end, later], 1).cause.startswith("VllmWorker-0 ended")
