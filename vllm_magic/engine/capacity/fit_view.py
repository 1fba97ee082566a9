"""What front ends show of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.sizes import GIB, gib, gib_range
from vllm_magic.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.engine.capacity.fit import Fit


def view(fit: Fit) -> View:
    """Return the verdict, what each GPU has to hold, and how sure that is."""
    need = fit.need
    kv = need.kv.request(fit.context) if need.kv_room is None else need.kv_room
    least, most = (need.weights + overhead + kv for overhead in need.overhead)
    columns = ["weights", "overhead", "KV of one request" if need.kv_room is None else "KV cache", "needed"]
    row = [_size(need.weights), gib_range(*need.overhead), _size(kv), gib_range(least, most)]
    rows = [row]
    if fit.gpus:
        columns = ["GPU", *columns, "vLLM may use", "free now"]
        rows = [[f"{gpu.index}: {gpu.name}", *row, gib(gpu.usable), gib(gpu.free)] for gpu in fit.gpus]
    return View(fit.verdict, tuple(columns), tuple(map(tuple, rows)), tuple(_how_sure(fit)))


def _how_sure(fit: Fit) -> Iterator[str]:
    need = fit.need
    numbers = f"{need.parameters:,} parameters, " if need.parameters else ""
    yield f"Weights: {numbers}by {need.source}."
    if need.kv.block:
        window = f"; {need.model.sliding} layers keep a window of {need.model.window:,} tokens"
        yield (
            f"KV cache: {need.kv.token:,} bytes a token on each GPU ({need.kv_dtype}, blocks of "
            f"{need.kv.block_size} tokens){window if need.model.sliding else ''}."
        )
        yield from () if need.kv_doubts else ("Exact: the KV cache of a request.",)
    yield "Estimates:"
    yield "  the overhead (CUDA's context, activations, CUDA graphs), and so what is left for the KV cache"
    yield from (f"  {doubt}" for doubt in (*need.kv_doubts, *need.doubts))


def _size(count: int) -> str:
    return gib(count) if count >= GIB // 100 else f"{count / 2**20:.2f} MiB"
