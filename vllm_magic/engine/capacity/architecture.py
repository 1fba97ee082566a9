"""A model's architecture, from its config.json: what decides how much memory its attention needs.

This module reads config.json as vLLM 0.32 does (transformers_utils/model_arch_config_convertor.py, config/model.py), for the
architectures of most models. Where vLLM does something else, `Architecture.doubts` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.capacity.layers import MOST, Layer, number, read_layers, sliding_window
from vllm_magic.errors import NoEstimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.capacity.layers import Config

UNKNOWN_LENGTH = 2048  # tokens of the longest context, if config.json does not give it
# The keys of the language model's part, in multimodal models.
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
# The defaults of transformers' classes for values that config.json omits, as the nested parts of some models do.
_DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "llama": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_size": 4096,
        "max_position_embeddings": 2048,
    },
}
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_KV_HEADS = (
    "n_head_kv",
    "num_kv_heads",
    "num_key_value_heads",
    "multi_query_group_num",
    "num_attention_groups",
)
# The model types for which vLLM stores one latent vector for each token (MLA).
_LATENT = (
    "axk1",
    "bailing_hybrid",
    "deepseek_",
    "dots3_note",
    "glm4_moe_lite",
    "glm5_next",
    "glm_moe_dsa",
    "hy_v4",
    "kimi_k2",
    "kimi_linear",
    "longcat_flash",
    "pangu_ultra_moe",
)
ANY_LENGTH = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"  # with it, vLLM accepts a longer context (config/model.py)
# The types of scaled rotary embeddings whose factor vLLM does not apply to the length of the context.
_NEVER_MULTIPLIED = ("su", "longrope", "llama3")
# The same for vLLM 0.32, which takes the length of these types as scaled already.
_ALREADY_SCALED = (
    *_NEVER_MULTIPLIED,
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
)


@dataclass(frozen=True)
class Architecture:
    """A language model's layers and heads.

    Attributes:
        model_type: the model type, as in config.json.
        layers: what each layer keeps, for the layers that have a KV cache or a state.
        depth: the number of hidden layers, including layers without a KV cache or a state.
        window: the number of tokens that a sliding layer looks back; 0 if no layer slides.
        heads: the number of attention heads.
        kv_heads: the number of heads that keep keys and values; 1 for MLA.
        values: the number of values that one layer keeps of one token for each of these heads.
        latent: whether the model uses MLA; every GPU keeps the whole latent vector.
        longest: the longest context that the model supports, in tokens.
        context: the context that vLLM chooses by default, in tokens.
        quantized: the quantization of the stored weights ("awq", "fp8"); "" for plain numbers.
        kv_dtype: the type of the KV cache that the checkpoint asks for; "" if it asks for none.
        tied: whether the output layer uses the weights of the embedding.
        doubts: the reasons why the size of the KV cache is only an estimate; () if it is exact.
    """

    model_type: str
    layers: tuple[Layer, ...]
    depth: int
    window: int
    heads: int
    kv_heads: int
    values: int
    latent: bool
    longest: int
    context: int
    quantized: str
    kv_dtype: str
    tied: bool
    doubts: tuple[str, ...]

    @property
    def sliding(self) -> int:
        """The number of layers that keep only a window of tokens."""
        return self.layers.count(Layer.SLIDING)


def read(config: Config) -> Architecture:
    """Read a config.json.

    Raises:
        NoEstimate: config.json does not describe a language model.
    """
    text = _text(config)
    kind = str(text.get("model_type") or "")
    text = {**_DEFAULTS.get(kind, {}), **{name: value for name, value in text.items() if value is not None}}
    depth = number(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = number(text, "num_attention_heads", "n_head", "n_heads", default=0)
    latent = kind.startswith(_LATENT) and "kv_lora_rank" in text
    window = sliding_window(text, kind)
    layers, doubts = read_layers(text, kind, depth, window)
    longest, context = _lengths(text, kind)
    quantized, kv_dtype = _quantization(config, text)
    return Architecture(
        model_type=kind,
        layers=layers,
        depth=depth,
        window=window if Layer.SLIDING in layers else 0,
        heads=heads,
        kv_heads=1 if latent else _kv_heads(text, heads),
        values=_values(text, heads, layers, latent=latent),
        latent=latent,
        longest=longest,
        context=context,
        quantized=quantized,
        kv_dtype=kv_dtype,
        tied=config.get("tie_word_embeddings") is True or text.get("tie_word_embeddings") is True,
        doubts=doubts,
    )


def longest_accepted(config: Config) -> int | None:
    """Return the longest --max-model-len that some version of vLLM accepts, in tokens; None if config.json does not tell.

    vLLM takes the smallest length in config.json, or a larger model_max_length, and multiplies it by the factor of a scaled
    rotary embedding. For YaRN, versions up to 0.28 multiply the length before the scaling, and later ones multiply nothing
    (_get_and_verify_max_len in config/model.py of 0.15 to 0.33).

    Raises:
        NoEstimate: a length in config.json is not a sensible number.
    """
    text = _text(config)
    parts = (config, text)  # a multimodal model may have a length in both
    lengths = [[number(part, name) for name in _LENGTHS if part.get(name) is not None] for part in parts]
    if not lengths[-1]:
        return None
    longest = max(
        *map(min, filter(None, lengths)), *(number(part, "model_max_length", default=0) for part in parts)
    )
    ropes = () if "gemma3" in str(text.get("model_type")) else _ropes(text)
    return max([longest, *(_multiplied(longest, rope) for rope in ropes)])


def _multiplied(length: int, rope: Config) -> int:
    """Return the length that a scaled rotary embedding reaches, by the version of vLLM that multiplies it most."""
    factor = rope.get("factor")
    if _rope_type(rope) in _NEVER_MULTIPLIED or not isinstance(factor, (int, float)) or not factor < MOST:
        return length
    before = number(rope, "original_max_position_embeddings", default=length)
    return int((before if _rope_type(rope) == "yarn" else length) * factor)


def _text(config: Config) -> dict[str, Any]:
    """Return the part of config.json that describes the language model."""
    text = dict(config)
    while nested := next((text[name] for name in _NESTED if isinstance(text.get(name), dict)), None):
        text = dict(nested)
    return text


def _kv_heads(text: Config, heads: int) -> int:
    """Return the number of heads of keys and values; by default that of all heads."""
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return 1  # Falcon
    return number(text, *_KV_HEADS, default=heads)


def _values(text: Config, heads: int, layers: tuple[Layer, ...], *, latent: bool) -> int:
    if not {Layer.FULL, Layer.SLIDING} & set(layers):
        return 0
    if latent:
        return number(text, "kv_lora_rank") + number(text, "qk_rope_head_dim", default=0)
    size = number(text, "head_dim", "hidden_size_per_head", default=0)
    if not size and heads:
        size = number(text, "hidden_size", "n_embd", "d_model") // heads
    if not size:
        raise NoEstimate("config.json has no num_attention_heads.")
    return 2 * size


def _lengths(text: Config, kind: str) -> tuple[int, int]:
    """Return the longest context, and the context that vLLM chooses by default, in tokens."""
    known = [number(text, name) for name in _LENGTHS if text.get(name) is not None]
    longest = number(text, "model_max_length", default=0) or min(known, default=UNKNOWN_LENGTH)
    ropes = _ropes(text)
    for rope in () if "gemma3" in kind else ropes:
        factor = rope.get("factor")
        if _rope_type(rope) in _ALREADY_SCALED or not isinstance(factor, (int, float)):
            continue
        if 0 < factor < MOST:
            longest = int(longest * factor)
            break
    if any(_rope_type(rope) == "longrope" for rope in ropes):
        return longest, number(text, "original_max_position_embeddings", default=longest)
    return longest, longest


def _ropes(text: Config) -> Sequence[Config]:
    """Return the parameters of the rotary embedding, of which each type of layer may have its own; [] if there are none."""
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, dict):
        return []
    by_layer_type = [parameters for parameters in rope.values() if isinstance(parameters, dict)]
    return by_layer_type or [rope]


def _rope_type(rope: Config) -> object:
    return rope.get("rope_type") or rope.get("type") or "default"


def _quantization(config: Config, text: Config) -> tuple[str, str]:
    """Return the quantization of the stored weights, and the type of KV cache that the checkpoint asks for; "" for none."""
    candidates = (
        part.get(name) for part in (config, text) for name in ("quantization_config", "compression_config")
    )
    stored = next((candidate for candidate in candidates if isinstance(candidate, dict)), None)
    if stored is None:
        return "", ""
    inner = stored.get("quantization")
    asked = [
        part.get(name)
        for part in (stored, inner)
        if isinstance(part, dict)
        for name in ("kv_cache_scheme", "kv_cache_quant_algo")
    ]
    wanted = next(filter(None, asked), None)
    four_bits = (isinstance(wanted, dict) and wanted.get("num_bits") == 4) or "fp4" in str(wanted).lower()  # noqa: PLR2004
    kv_dtype = "" if wanted is None else "nvfp4" if four_bits else "fp8"
    return str(stored.get("quant_method") or "quantized"), kv_dtype
