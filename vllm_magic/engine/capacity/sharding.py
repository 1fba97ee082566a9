"""The bytes of a checkpoint on one GPU: which tensors vLLM loads, in which type, and how it divides them among GPUs.

This is close to what vLLM's model classes do (model_executor/models/ of vLLM 0.32), without a rule for each class.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.engine.capacity.architecture import Architecture
    from vllm_magic.engine.capacity.weights import Tensor, Weights

PLAIN = ("F64", "F32", "F16", "BF16")  # the types that vLLM converts to the model's type
# The beginnings of --quantization for methods that quantize plain weights as they are loaded, each with the bytes of a
# number (its share of the scales included) in a matrix that is no embedding.
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
# Matrices that vLLM does not divide, because they are small: routers, and the projections of MLA into its latent space.
_WHOLE = re.compile(r"\.(?:gate|router|q_a_proj|kv_a_proj_with_mqa)\.")
_KEYS_AND_VALUES = re.compile(r"\.[kv]_proj\.")
_EMBEDDING = re.compile(r"embed|lm_head|\bwte\b|\bwpe\b")


def parameters(weights: Weights, model: Architecture) -> int | None:
    """Return how many numbers vLLM loads; None if the tensors are not known, or are quantized."""
    if model.quantized or not weights.tensors:
        return None
    return sum(tensor.numbers for tensor in weights.tensors if _is_loaded(tensor.name, model))


def on_a_gpu(
    weights: Weights, model: Architecture, *, number: int, quantization: str, tensors: int, stages: int
) -> int:
    """Return the bytes of weights on the GPU with the most weights.

    Args:
        weights: the checkpoint.
        model: the architecture of the checkpoint's model.
        number: the bytes of a number of the model's type.
        quantization: the value of the flag --quantization; "" without the flag.
        tensors: the number of GPUs among which each layer is divided (-tp).
        stages: the number of groups of GPUs among which the layers are divided (-pp).
    """
    if not weights.tensors:
        return -(-weights.size // (tensors * stages))
    online = 0 if model.quantized else _online(quantization)
    bytes_of = [0] * stages
    for tensor in weights.tensors:
        if not _is_loaded(tensor.name, model):
            continue
        size = tensor.size
        if tensor.dtype in PLAIN and not model.quantized:
            matrix = tensor.dimensions > 1 and not _EMBEDDING.search(tensor.name)
            size = int(tensor.numbers * (online if online and matrix else number))
        share = -(-size // _parts(tensor, model, tensors))
        for stage in _stages(tensor.name, model, stages):
            bytes_of[stage] += share
    return max(bytes_of)


def _online(quantization: str) -> Fraction | int:
    """Return the bytes of a number after the quantization by this method while the weights are loaded; 0 for other methods."""
    return next((size for name, size in _ONLINE if quantization.startswith(name)), 0)


def _is_loaded(name: str, model: Architecture) -> bool:
    """Whether vLLM loads the tensor: no copy of a tied embedding, and no layer for drafts (speculative decoding)."""
    if name.startswith("mtp.") or (model.tied and name == "lm_head.weight"):
        return False
    layer = _layer(name)
    return layer is None or layer < model.depth


def _layer(name: str) -> int | None:
    """Return the number of the language model's layer that has the tensor; None for a tensor outside these layers."""
    match = _LAYER.search(name)
    if not match or not name.startswith(_LANGUAGE) or _OTHER_SENSES.search(name):
        return None
    return int(match[1])


def _parts(tensor: Tensor, model: Architecture, tensors: int) -> int:
    """Return among how many GPUs vLLM divides the tensor; ``tensors`` as for `on_a_gpu`."""
    if tensor.dimensions < 2 or _WHOLE.search(tensor.name):  # noqa: PLR2004 - a vector
        return 1
    if _KEYS_AND_VALUES.search(tensor.name):
        return min(tensors, max(1, model.kv_heads))  # each GPU has at least one head
    return tensors


def _stages(name: str, model: Architecture, stages: int) -> set[int]:
    """Return the stages that need the tensor."""
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
    """Return the stage that has the layer (get_pp_indices in distributed/utils.py)."""
    count, more = divmod(depth, stages)
    sizes = [count] * stages
    for position in range(2, more + 2):  # the last stage gets no extra layer: it has the output layer too
        sizes[-position] += 1
    for stage, size in enumerate(sizes):
        if layer < size:
            return stage
        layer -= size
    return stages - 1
