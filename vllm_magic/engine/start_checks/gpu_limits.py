"""Refuse flags and models for which this machine has too few GPUs, or GPUs that are too old.

The checks need a snapshot of the GPUs, and a vLLM that certainly uses NVIDIA's GPUs. A vLLM for another device has the name of
the device in its version.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from vllm_magic.engine import command, versions
from vllm_magic.engine.start_checks import all_problems
from vllm_magic.errors import InvalidOption
from vllm_magic.gpu import choice
from vllm_magic.gpu.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.start_checks.planned_start import PlannedStart
    from vllm_magic.gpu.devices import Gpu

_OTHER_DEVICE = re.compile(r"\+.*(cpu|xpu|tpu|rocm|neuron|hpu)")  # in the version of a vLLM for other devices
# The flags of a server that may also use the GPUs of other machines.
_SEVERAL_MACHINES = ("--nnodes", "-n", "--data-parallel-backend", "-dpb", "--headless", "--node-rank", "-r")
# The first version of vLLM that is checked. Older versions may use Ray without a flag for it (config/parallel.py).
_FIRST_CHECKED = (0, 15)
_OLDEST_FOR_BFLOAT16 = (8, 0)  # check_if_supports_dtype in platforms/cuda.py
# For quantizations, the lowest compute capability that any vLLM from 0.15 to 0.33 accepts: get_min_capability in
# model_executor/layers/quantization.
_OLDEST_FOR = {
    "awq": (7, 5),
    "fp8": (7, 5),
    "torchao": (7, 5),
    "experts_int8": (8, 0),
    "fbgemm_fp8": (8, 0),
    "mxfp4": (8, 0),
}


def check(start: PlannedStart) -> None:
    """Check the number of GPUs, and what their compute capability allows.

    Raises:
        InvalidOption: there are too few GPUs, --gpus names a GPU that does not exist, or the GPUs are too old for a flag or for
            the model's quantization.
    """
    if start.snapshot is None or not start.snapshot.gpus:
        return
    gpus = _candidates(start)
    if not gpus or not start.version or _OTHER_DEVICE.search(start.version):
        return
    checks = [partial(_check_count, gpus)]
    capabilities = [gpu.capability for gpu in gpus if gpu.capability]
    if len(capabilities) == len(gpus):
        best = max(capabilities)
        checks += [partial(_check_dtype, gpus[0], best), partial(_check_quantization, gpus[0], best)]
    all_problems.check(checks, start)


def _candidates(start: PlannedStart) -> Sequence[Gpu]:
    """Return the GPUs of which the server uses some or all; none if the server may use parts of a GPU (MIG)."""
    if start.snapshot is None:
        return ()
    wanted = start.spec.gpus
    if wanted is None:
        return visible(start.snapshot.gpus, start.environ).gpus
    try:
        chosen = choice.choose(wanted, start.snapshot, command.gpu_count(start.spec.all_args), fraction=0.0)
    except ValueError as error:
        raise InvalidOption(str(error)) from None
    return start.snapshot.gpus if wanted.strip().lower() == "auto" else chosen


def _check_count(gpus: Sequence[Gpu], start: PlannedStart) -> None:
    backend = start.value("--distributed-executor-backend")
    release = versions.parse(start.version)
    certain = backend == "mp" or (
        backend is None and release is not None and _FIRST_CHECKED <= release <= versions.NEWEST
    )
    if not certain or start.has(*_SEVERAL_MACHINES):
        return
    tensor, stages = start.tensor_parallel_size, start.pipeline_parallel_size
    if tensor * stages <= len(gpus):
        return
    asked = " x ".join(
        f"{flag} {size}"
        for flag, size in (("--tensor-parallel-size", tensor), ("--pipeline-parallel-size", stages))
        if size > 1
    )
    most = len(gpus) // stages
    instead = f"Use --tensor-parallel-size {most}" if most and tensor > 1 else "Ask for fewer"
    raise InvalidOption(
        f"{asked} needs {tensor * stages} GPUs, and the server has {len(gpus)}. {instead}, or use "
        "--distributed-executor-backend ray for GPUs of several machines."
    )


def _check_dtype(gpu: Gpu, best: tuple[int, int], start: PlannedStart) -> None:
    dtype = start.value("--dtype")
    if dtype == "bfloat16" and best < _OLDEST_FOR_BFLOAT16:
        raise InvalidOption(
            f"--dtype bfloat16 needs a GPU of compute capability 8.0, and {gpu.name} has {_text(best)}. Use --dtype half."
        )


def _check_quantization(gpu: Gpu, best: tuple[int, int], start: PlannedStart) -> None:
    release = versions.parse(start.version)
    if release is None or not _FIRST_CHECKED <= release <= versions.NEWEST:
        return
    asked = start.value("--quantization", "-q")
    method = asked or _stored_quantization(start)
    oldest = _OLDEST_FOR.get(method)
    if oldest is None or best >= oldest:
        return
    request = f"--quantization {method}" if asked else f"The model is quantized with {method}, which"
    raise InvalidOption(
        f"{request} needs a GPU of compute capability {_text(oldest)}, and {gpu.name} has {_text(best)}. "
        "Use another quantization of the model, or another GPU."
    )


def _stored_quantization(start: PlannedStart) -> str:
    stored = (start.config or {}).get("quantization_config")
    if not isinstance(stored, dict) or start.has("--hf-overrides", "--hf-config-path"):
        return ""
    method = stored.get("quant_method")
    return method if isinstance(method, str) else ""


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
