"""Assess whether a model's need fits on the GPUs, and describe in one line the outcome and what would help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.engine.capacity.memory_need import CONTEXT
from vllm_magic.sizes import gib, gib_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_magic.engine.capacity.memory_need import Need
    from vllm_magic.gpu.devices import GpuIndex

LARGEST_SHARE = 0.98  # the largest share of a GPU that is advised; other programs on the GPU need the rest
STEP = 1024  # tokens; an advised context is a multiple of this


class FitOutcome(str, Enum):
    """The outcome of an estimate."""

    FITS = "fits"
    CLOSE = "close"  # the estimate is not exact enough to tell
    TOO_LARGE = "too large"  # for the share of a GPU that vLLM may use
    NOT_NOW = "not now"  # other processes hold the memory
    REFUSED = "refused"  # the model does not support so long a context
    UNKNOWN = "unknown"  # the memory of the GPUs is not known


@dataclass(frozen=True)
class GpuRoom:
    """A GPU that the server would use. Memory in bytes.

    Attributes:
        index: the index of the GPU in NVML.
        name: the name of the product.
        total: all memory.
        free: the memory that is free now.
        usable: the memory that vLLM may use, the share of --gpu-memory-utilization.
    """

    index: GpuIndex
    name: str
    total: int
    free: int
    usable: int


@dataclass(frozen=True)
class FitInput:
    """The data for an assessment. Memory in bytes.

    Attributes:
        need: the need of each GPU.
        candidates: the GPUs that the server may use and that report their memory, in the order in which it takes them.
        visible: the number of all GPUs that the driver shows.
        kv_room: the bytes for the KV cache on each GPU; None if that cannot be known.
        context: the tokens of the longest request.
        any_length: whether vLLM accepts a context that is longer than the model supports.
        need_with: returns the need with further flags.
    """

    need: Need
    candidates: tuple[GpuRoom, ...]
    visible: int
    kv_room: int | None
    context: int
    any_length: bool
    need_with: Callable[..., Need]

    @property
    def gpus(self) -> tuple[GpuRoom, ...]:
        """The GPUs that the server would use."""
        return self.candidates[: self.need.gpus]

    @property
    def tightest(self) -> GpuRoom:
        """The GPU on which vLLM may use the least memory."""
        return min(self.gpus, key=lambda gpu: gpu.usable)

    @property
    def request(self) -> tuple[int, int]:
        """The least and the most bytes that one request needs on one GPU; of one token if vLLM may shorten the context."""
        return needs(self.need, 1 if self.need.automatic else self.context)

    @property
    def is_room_set(self) -> bool:
        """Whether the KV cache has a size of its own, and is not what is left of a GPU."""
        return self.need.kv_room is not None or not self.gpus


def assess(case: FitInput) -> FitOutcome:
    """Return the outcome."""
    need = case.need
    if case.context > need.model.longest and not case.any_length:
        return FitOutcome.REFUSED
    if case.kv_room is None or len(case.gpus) not in (0, need.gpus):
        return FitOutcome.UNKNOWN
    if case.is_room_set and need.kv.needed(1 if need.automatic else case.context) > case.kv_room:
        return FitOutcome.TOO_LARGE
    return _on_gpus(case) if case.gpus else FitOutcome.FITS


def _on_gpus(case: FitInput) -> FitOutcome:
    least, most = case.request
    if case.is_room_set:  # then vLLM ignores --gpu-memory-utilization
        room, outcome = min(gpu.free for gpu in case.gpus), FitOutcome.NOT_NOW
    else:
        room, outcome = case.tightest.usable, FitOutcome.TOO_LARGE
    if least > room:
        return outcome
    if not case.is_room_set and _is_short(case.gpus):
        return FitOutcome.NOT_NOW
    return FitOutcome.CLOSE if most > room else FitOutcome.FITS


def needs(need: Need, context: int) -> tuple[int, int]:
    """Return the least and the most bytes on one GPU for one request of so many tokens."""
    kv = need.kv.needed(context) if need.kv_room is None else need.kv_room
    low, high = (need.weights + overhead + kv for overhead in need.overhead)
    return low, high


def line(case: FitInput, outcome: FitOutcome, requests: float | None, largest: int | None) -> str:
    """Return the outcome as one line for a person.

    Args:
        case: the case.
        outcome: its outcome.
        requests: how many requests have room at once; None if not known.
        largest: the longest context that has room, in tokens; None if not known.
    """
    if outcome is FitOutcome.REFUSED:
        return (
            f"vLLM will refuse --max-model-len {case.context:,}: {case.need.model.longest:,} tokens are the longest "
            "context that the model knows."
        )
    if outcome is FitOutcome.UNKNOWN:
        return _unknown(case)
    if outcome is FitOutcome.FITS:
        return f"Fits: {_capacity(case, requests)}; the largest context is {largest or 0:,}."
    describe = {FitOutcome.TOO_LARGE: _too_large, FitOutcome.NOT_NOW: _not_now, FitOutcome.CLOSE: _close}
    reason = describe[outcome](case)
    ways = list(_ways(case))
    listed = " or ".join(filter(None, (", ".join(ways[:-1]), *ways[-1:])))
    return f"{reason} Try {listed}." if listed else reason


def _capacity(case: FitInput, requests: float | None) -> str:
    if requests is None:
        return "the model keeps no KV cache"
    most = case.need.most_requests
    count = int(requests) if most is None else min(int(requests), most)
    return f"{count:,} request{'s' * (count != 1)} of {case.context:,} tokens at once"


def _unknown(case: FitInput) -> str:
    need = f"{gib_range(*case.request, 1)} for one request of {case.context:,} tokens"
    if not case.visible:
        return (
            f"There is no GPU to compare with. A GPU needs {need}; vLLM's CPU build takes the KV cache from "
            "VLLM_CPU_KVCACHE_SPACE (GiB)."
        )
    count = case.need.gpus
    return (
        f"Unknown: the server takes {count} GPU{'s' * (count != 1)}, and the memory of {len(case.gpus)} is known. "
        f"Each needs {need}."
    )


def _too_large(case: FitInput) -> str:
    kv = case.need.kv.needed(case.context)
    if case.is_room_set and case.kv_room is not None:
        return (
            f"Does not fit: the KV cache of one request of {case.context:,} tokens needs {gib(kv)}, "
            f"and has {gib(case.kv_room)}."
        )
    gpu = case.tightest
    least, _ = case.request
    return f"Does not fit: needs {gib(least, 1)} at least, and vLLM may use {gib(gpu.usable, 1)} of GPU {gpu.index}."


def _not_now(case: FitInput) -> str:
    gpu = max(case.gpus, key=lambda gpu: gpu.usable - gpu.free)
    wanted = case.request[0] if case.is_room_set else gpu.usable
    return f"Does not fit now: wants {gib(wanted, 1)} free, and GPU {gpu.index} has {gib(gpu.free, 1)}."


def _close(case: FitInput) -> str:
    gpu = case.tightest
    room = min(gpu.free for gpu in case.gpus) if case.is_room_set else gpu.usable
    return f"It may just fit: needs {gib_range(*case.request, 1)}, and has {gib(room, 1)} on GPU {gpu.index}."


def _ways(case: FitInput) -> Iterator[str]:
    """Yield what would help, as far as the estimate can tell: flags first, a change of another kind last."""
    if not case.gpus:
        yield from _shorter(case, case.kv_room or 0)
        yield "a larger VLLM_CPU_KVCACHE_SPACE"
        return
    if case.is_room_set:
        yield "another --kv-cache-memory-bytes"
        return
    if not _is_short(case.gpus):
        yield from _shorter(case, case.tightest.usable - case.need.weights - case.need.overhead[1])
    yield from _other_share(case)
    yield from _more_gpus(case)
    smallest = case.need.weights // 4 + case.need.overhead[0]  # in 4 bits
    if not case.need.model.quantized and case.need.parameters and smallest < case.tightest.usable:
        yield "a quantized model"


def _shorter(case: FitInput, room: int) -> Iterator[str]:
    """Yield the greatest --max-model-len for which the room (bytes) is enough, if it makes sense."""
    longest = case.need.kv.longest(room, case.context - 1)
    if longest >= STEP:
        yield f"--max-model-len {longest // STEP * STEP}"


def _other_share(case: FitInput) -> Iterator[str]:
    """Yield --gpu-memory-utilization with a better share, if there is one.

    If the share must be larger, it is the smallest share that is enough; else the largest share that is free.
    """
    _, most = case.request
    enough = max(math.ceil(100 * most / gpu.total) for gpu in case.gpus) / 100
    free = min(int(100 * (gpu.free - CONTEXT) / gpu.total) for gpu in case.gpus) / 100
    if enough <= min(free, LARGEST_SHARE):
        yield f"--gpu-memory-utilization {enough if enough > case.need.fraction else free:g}"


def _more_gpus(case: FitInput) -> Iterator[str]:
    """Yield -tp with the smallest number of GPUs on which the model fits, when each layer is divided among them."""
    count = 2
    while case.need.gpus == 1 and count <= len(case.candidates):
        gpus = case.candidates[:count]
        if case.need.model.heads % count == 0 and not _is_short(gpus):
            _, most = needs(case.need_with("--tensor-parallel-size", str(count)), case.context)
            if most <= min(gpu.usable for gpu in gpus):
                yield f"-tp {count}"
                return
        count *= 2


def _is_short(gpus: Sequence[GpuRoom]) -> bool:
    """Whether vLLM would refuse to start for lack of free memory, whatever the model needs."""
    return any(gpu.free < gpu.usable for gpu in gpus)
