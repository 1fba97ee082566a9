"""Refuse what the GPUs of this machine cannot do: too few of them, or too old ones.

Nothing is said without a snapshot of the GPUs, or for a vLLM that does not use NVIDIA's GPUs, or may not: its version tells.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllm_magic.engine import command, versions
from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption
from vllm_magic.gpu import choice
from vllm_magic.gpu.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.start_checks.planned_start import PlannedStart
    from vllm_magic.gpu.devices import Gpu

_OTHER_DEVICE = re.compile(r"\+.*(cpu|xpu|tpu|rocm|neuron|hpu)")  # in the version of a vLLM for other devices
# The flags of a server that also uses the GPUs of other machines, or whose workers something else places.
_ELSEWHERE = ("--nnodes", "-n", "--data-parallel-backend", "-dpb", "--headless", "--node-rank", "-r")
_FIRST_THAT_COUNTS = (0, 15)  # older versions may use Ray unasked (config/parallel.py)
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
    if start.now is None or not start.now.gpus:
        return
    gpus = _candidates(start)
    if not gpus or not start.version or _OTHER_DEVICE.search(start.version):
        return
    _check_count(start, gpus)
    capabilities = [gpu.capability for gpu in gpus if gpu.capability]
    if len(capabilities) == len(gpus):
        best = max(capabilities)
        _check_dtype(start, gpus[0], best)
        _check_quantization(start, gpus[0], best)


def _candidates(start: PlannedStart) -> Sequence[Gpu]:
    """Return the GPUs among which the server's will be; none if the server may use parts of a GPU (MIG)."""
    if start.now is None:
        return ()
    wanted = start.spec.gpus
    if wanted is None:
        return visible(start.now.gpus, start.environ).gpus
    try:
        chosen = choice.choose(wanted, start.now, command.gpu_count(start.spec.all_args), fraction=0.0)
    except ValueError as error:
        raise InvalidOption(str(error)) from None
    return start.now.gpus if wanted.strip().lower() == "auto" else chosen


def _check_count(start: PlannedStart, gpus: Sequence[Gpu]) -> None:
    args = start.spec.all_args
    backend = start.value("--distributed-executor-backend")
    release = versions.parse(start.version)
    certain = backend == "mp" or (
        backend is None and release is not None and _FIRST_THAT_COUNTS <= release <= versions.NEWEST
    )
    if not certain or start.has(*_ELSEWHERE):
        return
    tensor = flags.whole_number(args, "--tensor-parallel-size", "-tp", default=1)
    stages = flags.whole_number(args, "--pipeline-parallel-size", "-pp", default=1)
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


def _check_dtype(start: PlannedStart, gpu: Gpu, best: tuple[int, int]) -> None:
    dtype = start.value("--dtype")
    if dtype == "bfloat16" and best < _OLDEST_FOR_BFLOAT16:
        raise InvalidOption(
            f"--dtype bfloat16 needs a GPU of compute capability 8.0, and {gpu.name} has {_text(best)}. Use --dtype half."
        )


def _check_quantization(start: PlannedStart, gpu: Gpu, best: tuple[int, int]) -> None:
    release = versions.parse(start.version)
    if release is None or not _FIRST_THAT_COUNTS <= release <= versions.NEWEST:
        return
    asked = start.value("--quantization", "-q")
    method = asked or _stored_quantization(start)
    oldest = _OLDEST_FOR.get(method)
    if oldest is None or best >= oldest:
        return
    what = f"--quantization {method}" if asked else f"The model is quantized with {method}, which"
    raise InvalidOption(
        f"{what} needs a GPU of compute capability {_text(oldest)}, and {gpu.name} has {_text(best)}. "
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
