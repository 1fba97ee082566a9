"""How vLLM itself reads configs: `read_configs.py` takes {name: config} and gives {name: what it reads} as JSON.

Runs with the Python of the vLLM environment.
"""

import bisect
import json
import sys
import tempfile
from pathlib import Path

import vllm.config  # noqa: F401 - the modules below import each other, and this one has to be first
from vllm.config.model import _get_and_verify_max_len
from vllm.transformers_utils.config import get_config, get_hf_text_config
from vllm.transformers_utils.model_arch_config_convertor import (
    MODEL_ARCH_CONFIG_CONVERTORS,
    ModelArchConfigConvertorBase,
)

MOST = 2**31


def longest_accepted(text: object, arch: object) -> int:
    """The largest --max-model-len that vLLM does not refuse, below `MOST`."""

    def is_refused(length: int) -> bool:
        try:
            _get_and_verify_max_len(text, arch, None, length, False, None)
        except ValueError:
            return True
        return False

    return bisect.bisect_left(range(MOST), True, lo=1, key=is_refused) - 1


def read(config: dict) -> dict:
    """What the memory of a model depends on."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        whole = get_config(folder, trust_remote_code=False)
    text = get_hf_text_config(whole)
    kind = MODEL_ARCH_CONFIG_CONVERTORS.get(whole.model_type, ModelArchConfigConvertorBase)
    reader = kind(whole, text)
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None) or ["sliding" if window else "full"] * text.num_hidden_layers
    return {
        "heads": reader.get_total_num_attention_heads(),
        "accepted": longest_accepted(text, reader.convert()),
        "depth": reader.get_num_hidden_layers(),
        "head": reader.get_head_size(),
        "kv_heads": reader.get_total_num_kv_heads(),
        "latent": reader.is_deepseek_mla(),
        "longest": reader.derive_max_model_len_and_key()[0],
        "window": window,
        "layers": types,
    }


json.dump({name: read(config) for name, config in json.load(sys.stdin).items()}, sys.stdout)
