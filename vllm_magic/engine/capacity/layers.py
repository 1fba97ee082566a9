"""What each layer of a model keeps of earlier tokens, from the model's config.json."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import NoEstimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    Config = Mapping[str, Any]

MOST = 10**9  # a larger number in config.json is nonsense, whatever it counts
MOST_LAYERS = 10_000  # likewise for the number of layers
_ENCODERS = ("bert", "distilbert", "modernbert", "nomic_bert", "roberta", "xlm-roberta")
_FULL, _SLIDING, _STATE = "full_attention", "sliding_attention", "linear_attention"  # in layer_types
_PATTERNS = {"gemma2": 2, "cohere2": 4, "gemma3_text": 6}  # 6: every sixth layer keeps all tokens
# Keys of config.json, each with the reason why the estimate for such a model is doubtful.
_DOUBTFUL = {
    "compress_ratios": "vLLM compresses its KV cache",
    "index_topk": "the indexer of its sparse attention is not counted",
    "global_head_dim": "its layers differ in the size of their heads",
    "block_configs": "its layers differ from each other",
}


class Layer(str, Enum):
    """What a layer keeps of earlier tokens."""

    FULL = "all tokens"
    SLIDING = "a window of tokens"
    STATE = "a state of fixed size"


def number(text: Config, *names: str, default: int | None = None) -> int:
    """Return the number under the first of these names that config.json has; the default if it has none of them.

    Here and in `architecture`, ``text`` is the part of config.json that describes the language model.

    Raises:
        NoEstimate: config.json has none of the names and there is no default, or the value is not a sensible number.
    """
    for name in names:
        value = text.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
            raise NoEstimate(f"{name} in config.json is not a sensible number.")
        return value
    if default is None:
        raise NoEstimate(f"config.json has no {names[0]}: the model is not a language model of a known kind.")
    return default


def sliding_window(text: Config, kind: str) -> int:
    """Return the number of tokens that a sliding layer looks back; 0 if no layer slides."""
    if kind.startswith("qwen") and text.get("use_sliding_window") is not True:
        return 0
    if text.get("use_sliding_window") is False:
        return 0
    return number(text, "sliding_window", default=0)


def read_layers(
    text: Config, kind: str, depth: int, window: int
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return what each layer keeps, for the layers that have a KV cache or a state, and the doubts about that.

    Args:
        text: the language model's part of config.json.
        kind: the model's model_type.
        depth: the number of layers.
        window: the number of tokens that a sliding layer looks back.

    Raises:
        NoEstimate: config.json makes no sense.
    """
    if kind in _ENCODERS:
        return (), ()
    if depth > MOST_LAYERS:
        raise NoEstimate("num_hidden_layers in config.json is not a sensible number.")
    doubts = [reason for name, reason in _DOUBTFUL.items() if name in text]
    if text.get("is_encoder_decoder") is True:
        doubts.append("what the decoder keeps of the encoder is not counted")
    layers = [_layer(name, window) for name in _names(text, kind, depth, window)]
    if Layer.STATE in layers:
        doubts.append("the states of its layers without attention are not counted")
    # The last layers, as many as this number, read the cache of earlier layers.
    shared = number(text, "num_kv_shared_layers", default=0)
    return tuple(layers[: max(0, depth - shared)]), tuple(doubts)


def _layer(name: str, window: int) -> Layer:
    if "sliding" in name and window:
        return Layer.SLIDING
    # Llama 4's chunked attention keeps all tokens unless vLLM is told otherwise (config/vllm.py).
    return Layer.FULL if "attention" in name and "linear" not in name else Layer.STATE


def _names(text: Config, kind: str, depth: int, window: int) -> list[str]:
    """Return the type of each layer, by the names of ``layer_types``, also for a config.json without that key."""
    for key in ("layer_types", "layers_block_type"):
        if isinstance(text.get(key), list):
            return [_FULL if name == "hybrid" else str(name) for name in text[key][:depth]]
    if (mixed := _mixed(text, kind, depth)) is not None:
        return mixed
    if not window:
        return [_FULL] * depth
    if kind.startswith("qwen"):
        first = number(text, "max_window_layers", default=28)
        return [_SLIDING if index >= first else _FULL for index in range(depth)]
    every = number(text, "sliding_window_pattern", default=_PATTERNS.get(kind, 0))
    # Without a pattern, as in Mistral and Phi-3, every layer slides.
    return [_FULL if every and (index + 1) % every == 0 else _SLIDING for index in range(depth)]


def _mixed(text: Config, kind: str, depth: int) -> list[str] | None:
    """Return the types of the layers of a model in which not all layers have attention; None for any other model."""
    if kind.endswith("mamba") or kind == "mamba2":
        return [_STATE] * depth
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):  # Nemotron-H; a "-" layer keeps nothing
        return [{"*": _FULL, "M": _STATE}[letter] for letter in pattern[:depth] if letter in "*M"]
    if "attn_layer_period" in text:  # Jamba
        period, offset = (number(text, f"attn_layer_{name}", default=0) for name in ("period", "offset"))
        return [_FULL if index % max(1, period) == offset else _STATE for index in range(depth)]
    if "full_attention_interval" in text:  # Qwen3-Next
        interval = max(1, number(text, "full_attention_interval"))
        return [_STATE if (index + 1) % interval else _FULL for index in range(depth)]
    return None
