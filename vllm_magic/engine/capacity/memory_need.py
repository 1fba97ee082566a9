"""The memory that a server needs on each GPU: weights, KV cache, and vLLM's overhead.

It is computed from the model's config.json, its weights, and the flags of ``vllm serve``. vLLM's own rule: weights,
activations and the KV cache of one request have to fit into the share --gpu-memory-utilization of the GPU
(v1/worker/gpu_worker.py and v1/core/kv_cache_utils.py of 0.32).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import command
from vllm_magic.engine.capacity import architecture, sharding
from vllm_magic.engine.capacity.kv_cache import layout
from vllm_magic.engine.capacity.layers import MOST, Layer
from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption
from vllm_magic.sizes import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_magic.engine.capacity.architecture import Architecture
    from vllm_magic.engine.capacity.kv_cache import KvCache
    from vllm_magic.engine.capacity.layers import Config
    from vllm_magic.engine.capacity.weights import Weights

# Bytes for CUDA's context. The driver and CUDA take about half of this for a process before vLLM reads the free memory.
CONTEXT = GIB
# CUDA's context, activations, CUDA graphs: the range that most models were seen to take.
OVERHEAD = (1 * GIB, 3 * GIB)
MOST_GPUS = 4096
_BLOCK, _CPU_BLOCK = 16, 128  # tokens
_DTYPES = {"auto": 2, "half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}  # bytes of a number
# vLLM's types of KV cache that keep nothing besides the numbers, with the bytes of a number.
_KV_DTYPES = {
    **dict.fromkeys(("float16", "bfloat16"), Fraction(2)),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"), Fraction(1)),
}
_ROUGH_KV_DTYPES = (
    ("fp8", Fraction(1)),
    ("int8", Fraction(1)),
    ("nvfp4", Fraction(9, 16)),
    ("", Fraction(1, 2)),
)
_UNCOUNTED = (
    ("--decode-context-parallel-size", "-dcp"),
    ("--enable-expert-parallel", "-ep"),
    ("--enable-lora",),
    ("--kv-cache-dtype-skip-layers",),
    ("--kv-transfer-config",),
    ("--num-gpu-blocks-override",),
    ("--speculative-config", "-sc"),
)


@dataclass(frozen=True)
class Need:
    """Memory on the GPU that needs the most of it, in bytes.

    Attributes:
        model: the model's architecture.
        parameters: how many numbers vLLM loads; None if the tensors are not known, or are quantized.
        weights: the bytes of the weights.
        source: what the size of the weights is known from, for a message.
        overhead: the least and the most bytes that vLLM takes besides weights and KV cache.
        kv: the layout of the KV cache.
        kv_dtype: the type of the numbers in the KV cache.
        kv_room: the bytes that the flags give to the KV cache; None for all that is left.
        context: the tokens of the longest request.
        automatic: whether vLLM makes the context as long as the memory allows.
        gpus: the number of GPUs that the server uses.
        fraction: the share of each GPU that vLLM may use.
        most_requests: the number of requests that vLLM works on at the same time, if a flag limits it; else None.
        kv_doubts: the reasons why the KV cache of a request is an estimate; () if it is exact.
        doubts: the reasons why the other figures are estimates, besides the overhead.
    """

    model: Architecture
    parameters: int | None
    weights: int
    source: str
    overhead: tuple[int, int]
    kv: KvCache
    kv_dtype: str
    kv_room: int | None
    context: int
    automatic: bool
    gpus: int
    fraction: float
    most_requests: int | None
    kv_doubts: tuple[str, ...]
    doubts: tuple[str, ...]


def need(config: Config, weights: Weights, args: tuple[str, ...], memory: int | None) -> Need:
    """Return what a server with these flags needs on each GPU.

    Args:
        config: the model's config.json.
        weights: the model's weights.
        args: the flags of ``vllm serve``.
        memory: the bytes of a GPU, by which vLLM chooses how many tokens it works on at once; None without a GPU, as
            for the CPU build.

    Raises:
        InvalidOption: a flag has a value that vLLM refuses.
        NoEstimate: the need of the model cannot be estimated.
    """
    model = _as_asked(architecture.read(overridden(config, args)), args)
    tensors = _gpus(args, "--tensor-parallel-size", "-tp")
    stages = _gpus(args, "--pipeline-parallel-size", "-pp")
    number = _bytes_of_a_number(args)
    kv_dtype, kv_number, doubt = _kv_number(args, model, number)
    context = _context(args)
    on_a_gpu = sharding.on_a_gpu(
        weights,
        model,
        number=number,
        quantization=flags.value(args, "--quantization", "-q") or "",
        tensors=tensors,
        stages=stages,
    )
    return Need(
        model=model,
        parameters=sharding.parameters(weights, model),
        weights=max(0, on_a_gpu - _elsewhere(args)),
        source=weights.source,
        overhead=OVERHEAD,
        kv=_kv_cache(model, args, kv_number, tensors=tensors, stages=stages, memory=memory),
        kv_dtype=kv_dtype,
        kv_room=flags.amount(flags.value(args, "--kv-cache-memory-bytes") or ""),
        context=context if context > 0 else model.context,
        automatic=context < 0,
        gpus=command.gpu_count(args),
        fraction=_fraction(args),
        most_requests=flags.whole_number(args, "--max-num-seqs", default=0) or None,
        kv_doubts=(*model.doubts, *doubt, *_window_doubt(model, args)),
        doubts=tuple(_doubts(weights, model, args, tensors * stages)),
    )


def overridden(config: Config, args: Sequence[str]) -> dict[str, Any]:
    """Return the config with the changes of --hf-overrides.

    Raises:
        InvalidOption: the value of --hf-overrides is not JSON.
    """
    changed = dict(config)
    try:
        overrides = json.loads(flags.value(args, "--hf-overrides") or "{}")
    except (ValueError, RecursionError):
        raise InvalidOption("--hf-overrides is not JSON. Put it between quotes: '{\"a\": 1}'.") from None
    for name, value in overrides.items() if isinstance(overrides, dict) else ():
        before = changed.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            value = {**before, **value}  # noqa: PLW2901
        changed[name] = value
    return changed


def _as_asked(model: Architecture, args: Sequence[str]) -> Architecture:
    """Return the architecture with the change of --disable-sliding-window, which also limits the context to the window."""
    if not model.window or not flags.has(args, "--disable-sliding-window"):
        return model
    layers = tuple(Layer.FULL if layer is Layer.SLIDING else layer for layer in model.layers)
    shorter = min(model.longest, model.window)
    return replace(model, layers=layers, window=0, longest=shorter, context=min(model.context, shorter))


def _gpus(args: Sequence[str], *names: str) -> int:
    count = flags.whole_number(args, *names, default=1)
    if not 0 < count <= MOST_GPUS:
        raise InvalidOption(f"{names[0]} {count} makes no sense. Use 1 or more.")
    return count


def _bytes_of_a_number(args: Sequence[str]) -> int:
    """Return the bytes of a number of the model's type.

    By default vLLM converts float32 to a type of 16 bits (_resolve_auto_dtype in config/model.py).
    """
    said = flags.value(args, "--dtype") or "auto"
    if said.lower() not in _DTYPES:
        raise InvalidOption(f"--dtype cannot be {said!r}. Use one of {', '.join(_DTYPES)}.")
    return _DTYPES[said.lower()]


def _kv_number(
    args: Sequence[str], model: Architecture, number: int
) -> tuple[str, Fraction, tuple[str, ...]]:
    """Return the type of the KV cache, the bytes of a number in it, and the doubts about these."""
    said = flags.value(args, "--kv-cache-dtype") or "auto"
    said = (model.kv_dtype or "auto") if said == "auto" else said
    if said == "auto":
        return ("float32" if number == _DTYPES["float32"] else "16 bits"), Fraction(number), ()
    if said in _KV_DTYPES:
        return said, _KV_DTYPES[said], ()
    rough = next(size for name, size in _ROUGH_KV_DTYPES if said.startswith(name))
    return said, rough, (f"what a KV cache of type {said} keeps besides its numbers is not counted",)


def _kv_cache(
    model: Architecture,
    args: Sequence[str],
    number: Fraction,
    *,
    tensors: int,
    stages: int,
    memory: int | None,
) -> KvCache:
    heads = model.kv_heads if model.latent else max(1, model.kv_heads // tensors)
    full, sliding = model.layers.count(Layer.FULL), model.sliding
    if full and sliding and flags.has(args, "--disable-hybrid-kv-cache-manager"):
        full, sliding = full + sliding, 0
    # On GPUs vLLM schedules ahead, so one batch more is under way than the pipeline has stages.
    batches = stages if memory is None else stages + 1
    batch = flags.amount(flags.value(args, "--max-num-batched-tokens") or "")
    return layout(
        full=full,
        sliding=sliding,
        window=model.window,
        page=int(heads * model.values * number),
        block_size=flags.whole_number(args, "--block-size", default=0)
        or (_CPU_BLOCK if memory is None else _BLOCK),
        in_flight=batches * (batch or _batch(memory, tensors * stages)),
        stages=stages,
    )


def _batch(memory: int | None, workers: int) -> int:
    """Return how many tokens vLLM works on at once by default (get_batch_defaults in engine/arg_utils.py)."""
    if memory is None:
        return 2048 * workers
    return 16384 if memory >= 160 * GIB else 8192 if memory >= 70 * GIB else 2048


def _elsewhere(args: Sequence[str]) -> int:
    """Return the bytes of weights that stay in the machine's memory instead of the GPU's."""
    return int(min(max(0.0, flags.number(args, "--cpu-offload-gb", default=0.0)), float(MOST_GPUS)) * GIB)


def _context(args: Sequence[str]) -> int:
    """Return the context in tokens; 0 for the model's own context, -1 for the longest that has room."""
    said = flags.value(args, "--max-model-len")
    if said is None:
        return 0
    if said.strip().lower() in ("-1", "auto"):
        return -1
    count = flags.amount(said)
    if not count or count > MOST:
        raise InvalidOption(f"--max-model-len {said} is not a length. Write 8192, 32k, 32K or auto.")
    return count


def _fraction(args: tuple[str, ...]) -> float:
    fraction = command.memory_fraction(args)
    if not 0 < fraction <= 1:
        raise InvalidOption("--gpu-memory-utilization must be above 0, and at most 1.")
    return fraction


def _window_doubt(model: Architecture, args: Sequence[str]) -> Iterator[str]:
    if model.sliding and not flags.has(args, "--max-num-batched-tokens"):
        yield "a window also keeps the tokens of the batch under way, whose size vLLM chooses (--max-num-batched-tokens)"


def _doubts(weights: Weights, model: Architecture, args: Sequence[str], workers: int) -> Iterator[str]:
    if not weights.tensors:
        yield f"the weights, which are known by {weights.source} only"
    elif workers > 1:
        yield "how the weights are divided among the GPUs"
    elif flags.has(args, "--quantization", "-q") and not model.quantized:
        yield "what the weights take once vLLM has quantized them"
    for names in _UNCOUNTED:
        if flags.has(args, *names):
            yield f"what {names[0]} changes is not counted"
