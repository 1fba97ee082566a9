"""What a model's config.json says of the memory that its attention needs.

Read as vLLM 0.32 reads it (transformers_utils/model_arch_config_convertor.py, config/model.py), for the
architectures that most models have; where it does otherwise, `doubts` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.capacity.layers import MOST, Layer, kept, look_back, number
from vllm_magic.errors import NoEstimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.capacity.layers import Config

UNKNOWN_LENGTH = 2048  # tokens, where config.json does not say
_NESTED = (
    "text_config",
    "llm_config",
    "language_config",
    "thinker_config",
)  # of models that also see or hear
# What transformers' classes fill in where config.json is silent, as in the nested parts of some models.
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
# Those whose KV cache vLLM keeps as one latent vector a token.
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
_ALREADY_SCALED = (
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
)


@dataclass(frozen=True)
class Architecture:
    """A language model's layers and heads.

    Attributes:
        model_type: as config.json calls it.
        layers: what each layer that has a KV cache or a state keeps.
        depth: hidden layers, also those without either.
        window: tokens that a sliding layer looks back; 0 where there is none.
        heads: attention heads.
        kv_heads: heads that keep keys and values; 1 for MLA.
        values: numbers that one layer keeps of one token for each of these heads.
        latent: whether it is MLA, whose vector every GPU keeps whole.
        longest: tokens of the longest context that the model knows.
        context: tokens of the context that vLLM takes unless it is told otherwise.
        quantized: how the weights are stored ("awq", "fp8"); "" as plain numbers.
        kv_dtype: of the KV cache, where the checkpoint asks for one; else "".
        tied: whether the output uses the embedding's weights.
        doubts: why the KV cache is only an estimate; () where it is exact.
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
        """How many layers keep a window only."""
        return self.layers.count(Layer.SLIDING)


def read(config: Config) -> Architecture:
    """Read a config.json.

    Raises:
        NoEstimate: it does not describe a language model.
    """
    text = _text(config)
    kind = str(text.get("model_type") or "")
    text = {**_DEFAULTS.get(kind, {}), **{name: value for name, value in text.items() if value is not None}}
    depth = number(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = number(text, "num_attention_heads", "n_head", "n_heads", default=0)
    latent = kind.startswith(_LATENT) and "kv_lora_rank" in text
    window = look_back(text, kind)
    layers, doubts = kept(text, kind, depth, window)
    longest, context = _lengths(text, kind)
    quantized, kv_dtype = _quantized(config, text)
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


def _text(config: Config) -> dict[str, Any]:
    """The part that describes the language model."""
    text = dict(config)
    while nested := next((text[name] for name in _NESTED if isinstance(text.get(name), dict)), None):
        text = dict(nested)
    return text


def _kv_heads(text: Config, heads: int) -> int:
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
    """The longest context, and the one that vLLM takes by itself."""
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
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, dict):
        return []
    nested = [one for one in rope.values() if isinstance(one, dict)]  # one for each type of layer
    return nested or [rope]


def _rope_type(rope: Config) -> object:
    return rope.get("rope_type") or rope.get("type") or "default"


def _quantized(config: Config, text: Config) -> tuple[str, str]:
    """How the weights are stored, and the type of KV cache that the checkpoint asks for; "" for none."""
    found = (
        part.get(name) for part in (config, text) for name in ("quantization_config", "compression_config")
    )
    stored = next((one for one in found if isinstance(one, dict)), None)
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
    return str(stored.get("quant_method") or "quantised"), kv_dtype
