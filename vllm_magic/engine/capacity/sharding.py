"""How much of a checkpoint lands on one GPU: what vLLM loads of it, in which type, and how it is divided.

Close to what its model classes do (model_executor/models/ of vLLM 0.32), without knowing each of them.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.engine.capacity.architecture import Architecture
    from vllm_magic.engine.capacity.weights import Tensor, Weights

PLAIN = ("F64", "F32", "F16", "BF16")  # what becomes the model's own type
# What quantises plain weights as they are loaded: bytes of a number in a matrix that is no embedding, with its scales.
_ONLINE = (
    ("fp8", Fraction(1)),
    ("int8", Fraction(1)),
    ("experts_int8", Fraction(1)),
    ("mxfp8", Fraction(33, 32)),
    ("nvfp4", Fraction(9, 16)),
    ("bitsandbytes", Fraction(9, 16)),
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,6})\.")
_LANGUAGE = ("model.", "language_model.", "transformer.", "gpt_neox.")
_OTHER_SENSES = re.compile(r"visual|vision|audio|image|connector|multi_modal")
# Too small to be worth dividing: routers, and the projections of MLA into its latent space.
_WHOLE = re.compile(r"\.(?:gate|router|q_a_proj|kv_a_proj_with_mqa)\.")
_KEYS_AND_VALUES = re.compile(r"\.[kv]_proj\.")
_EMBEDDING = re.compile(r"embed|lm_head|\bwte\b|\bwpe\b")


def parameters(weights: Weights, model: Architecture) -> int | None:
    """Numbers that vLLM loads; None where they are not known, or packed."""
    if model.quantized or not weights.tensors:
        return None
    return sum(one.numbers for one in weights.tensors if _is_loaded(one.name, model))


def on_a_gpu(
    weights: Weights, model: Architecture, *, number: int, quantization: str, tensors: int, stages: int
) -> int:
    """Bytes of weights on the GPU that has the most of them.

    Args:
        weights: the checkpoint.
        model: what it is of.
        number: bytes of a number of the model's type.
        quantization: of the flag --quantization; "" without one.
        tensors: GPUs among which each layer is divided (-tp).
        stages: groups of GPUs among which the layers are divided (-pp).
    """
    if not weights.tensors:
        return -(-weights.size // (tensors * stages))
    online = 0 if model.quantized else _online(quantization)
    bytes_of = [0] * stages
    for one in weights.tensors:
        if not _is_loaded(one.name, model):
            continue
        size = one.size
        if one.dtype in PLAIN and not model.quantized:
            matrix = one.dimensions > 1 and not _EMBEDDING.search(one.name)
            size = int(one.numbers * (online if online and matrix else number))
        share = -(-size // _parts(one, model, tensors))
        for stage in _stages(one.name, model, stages):
            bytes_of[stage] += share
    return max(bytes_of)


def _online(quantization: str) -> Fraction | int:
    return next((size for name, size in _ONLINE if quantization.startswith(name)), 0)


def _is_loaded(name: str, model: Architecture) -> bool:
    """Whether it is a part of the model as it is served: not a copy of the embedding, not a layer for drafts."""
    if name.startswith("mtp.") or (model.tied and name == "lm_head.weight"):
        return False
    layer = _layer(name)
    return layer is None or layer < model.depth


def _layer(name: str) -> int | None:
    """The layer of the language model to which it belongs."""
    found = _LAYER.search(name)
    if not found or not name.startswith(_LANGUAGE) or _OTHER_SENSES.search(name):
        return None
    return int(found[1])


def _parts(one: Tensor, model: Architecture, tensors: int) -> int:
    if one.dimensions < 2 or _WHOLE.search(one.name):  # noqa: PLR2004 - a vector
        return 1
    if _KEYS_AND_VALUES.search(one.name):
        return min(tensors, max(1, model.kv_heads))  # each GPU has one head at least
    return tensors


def _stages(name: str, model: Architecture, stages: int) -> set[int]:
    """On which stages it is needed."""
    layer = _layer(name)
    if layer is not None:
        return {_stage(layer, model.depth, stages)}
    last = stages - 1
    if _OTHER_SENSES.search(name):
        return {0}
    if "embed" in name or ".wte." in name:
        return {0, last} if model.tied else {0}
    return {last}


def _stage(layer: int, depth: int, stages: int) -> int:
    """The stage that has the layer (get_pp_indices in distributed/utils.py)."""
    count, more = divmod(depth, stages)
    sizes = [count] * stages
    for position in range(2, more + 2):  # not to the last one, which has the output besides
        sizes[-position] += 1
    for stage, size in enumerate(sizes):
        if layer < size:
            return stage
        layer -= size
    return stages - 1
