"""Models on disk without their weights: config.json, and safetensors files whose bodies are holes (sparse files)."""

from __future__ import annotations

import json
from pathlib import Path

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I32": 4, "U8": 1}

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


def header(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """Return the beginning of a safetensors file: a length, and JSON."""
    offset, described = 0, {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for length in shape:
            size *= length
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(described).encode()
    return len(text).to_bytes(8, "little") + text


def body(tensors: dict[str, tuple[str, list[int]]]) -> int:
    """Return the size of all tensors in bytes."""
    return _total(json.loads(header(tensors)[8:]))


def _total(described: dict) -> int:
    return max(
        (one["data_offsets"][1] for name, one in described.items() if name != "__metadata__"), default=0
    )


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """Write a safetensors file that takes no room on disk for its tensors, whatever their size."""
    start = header(tensors)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + body(tensors))


def model(folder: Path, config: dict, tensors: dict[str, tuple[str, list[int]]] | None = None) -> Path:
    """Make a model's folder and return it; without tensors the model gets those of a Llama. The tokenizer has no words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(config))
    safetensors(folder / "model.safetensors", llama(config) if tensors is None else tensors)
    return folder


def llama(config: dict, dtype: str = "BF16") -> dict[str, tuple[str, list[int]]]:
    """Return the tensors of a Llama with this config."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], width], "model.norm.weight": [width]}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = [config["vocab_size"], width]
    for layer in range(config["num_hidden_layers"]):
        of_a_layer = {
            "self_attn.q_proj": [queries, width],
            "self_attn.k_proj": [keys, width],
            "self_attn.v_proj": [keys, width],
            "self_attn.o_proj": [width, queries],
            "mlp.gate_proj": [inner, width],
            "mlp.up_proj": [inner, width],
            "mlp.down_proj": [width, inner],
            "input_layernorm": [width],
            "post_attention_layernorm": [width],
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_a_layer.items()}
    return {name: (dtype, shape) for name, shape in shapes.items()}
