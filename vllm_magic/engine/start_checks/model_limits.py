"""Refuse what the model cannot do, by its config.json on this machine.

The checks say nothing if vLLM may read another configuration than this config.json, or may read config.json in another way.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.capacity import architecture, memory_need
from vllm_magic.engine.flags import flags
from vllm_magic.engine.start_checks import all_problems
from vllm_magic.errors import InvalidOption, NoEstimate, StartFailed

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

# Keys of config.json that hold the language model of some model types. vLLM has a rule for each of these types.
_LANGUAGE_MODELS = ("llm_config", "language_config", "thinker_config")
# The model types for which vLLM counts the heads in another way (transformers_utils/model_arch_config_convertor.py of 0.33).
_OTHER_HEADS = ("cohere_asr", "moss_audio", "nemotron-nas")
# The end of an architecture's name. vLLM may replace it by another end (_SUFFIX_TO_DEFAULTS in config/model.py).
_END = re.compile(r"(For[A-Z]\w*|(LMHead|Chat|Embedding|Classification|Reward)?Model)$")


def check(start: PlannedStart) -> None:
    """Check the length of the context, the number of GPUs for tensor parallelism, and the architecture.

    Raises:
        InvalidOption: --max-model-len is longer than the model's context, or --tensor-parallel-size does not divide its heads.
        StartFailed: this vLLM does not know the model's architecture.
    """
    config = _config(start)
    if config is None:
        return
    _check_architecture(start, config)
    if not any(name in config for name in _LANGUAGE_MODELS):
        checks = (partial(_check_length, config), partial(_check_heads, config))
        all_problems.check(checks, start)


def _config(start: PlannedStart) -> dict[str, Any] | None:
    """Return config.json with the changes of --hf-overrides; None if vLLM may use another configuration."""
    if start.folder is None or start.config is None:
        return None
    is_uncertain = (
        start.has("--hf-config-path")
        or start.value("--config-format") not in (None, "auto", "hf")
        # A repository of Mistral (get_config in transformers_utils/config.py).
        or (start.folder / "params.json").exists()
        # vLLM serves the model that the configuration names (maybe_override_with_speculators).
        or "speculators_config" in start.config
        # The Hub may have another model of this name than ModelScope.
        or (start.folder.parent.name == "snapshots" and bool(start.environ.get("VLLM_USE_MODELSCOPE")))
    )
    if is_uncertain or any(
        flags.split(word)[0].startswith("--hf-overrides.") for word in start.spec.all_args
    ):
        return None
    try:
        return memory_need.overridden(start.config, start.spec.all_args)
    except InvalidOption:
        return None


def _check_length(config: dict[str, Any], start: PlannedStart) -> None:
    given = start.value("--max-model-len") or ""
    length = flags.amount(given)
    if not length or start.environ.get(architecture.ANY_LENGTH, "").strip().lower() not in ("", "0", "false"):
        return
    if start.folder is not None and any(start.folder.glob("sentence_*_config.json")):
        return  # vLLM takes the length from that file
    if _has_own_code(start, config):
        return
    try:
        longest = architecture.longest_accepted(config)
    except NoEstimate:
        return
    if longest and length > longest:
        raise InvalidOption(
            f"--max-model-len {given} is longer than the model's context of {longest} tokens. Use --max-model-len {longest} or "
            f"less. (--env {architecture.ANY_LENGTH}=1 makes vLLM accept it; the model was not made for it.)"
        )


def _check_heads(config: dict[str, Any], start: PlannedStart) -> None:
    size = start.tensor_parallel_size
    if size <= 1 or _has_own_code(start, config):
        return
    try:
        model = architecture.read(config)
    except NoEstimate:
        return
    heads = model.heads
    if not heads or not heads % size or model.model_type in _OTHER_HEADS:
        return
    fewer = max(number for number in range(1, min(size, heads + 1)) if not heads % number)
    more = next((number for number in range(size, heads + 1) if not heads % number), None)
    raise InvalidOption(
        f"--tensor-parallel-size {size} does not divide the model's {heads} attention heads. "
        f"Use {fewer}{f' or {more}' if more else ''}."
    )


def _check_architecture(start: PlannedStart, config: dict[str, Any]) -> None:
    names = config.get("architectures")
    known = start.table.architectures if start.table else ()
    if (
        not known
        or not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        return
    if config.get("auto_map") or start.value("--model-impl") not in (None, "auto", "vllm"):
        return
    families = {_END.sub("", name) for name in known}
    if start.table and not any(_END.sub("", name) in families for name in names):
        raise StartFailed(
            f"vLLM {start.table.version} does not know the model's architecture, {', '.join(names)}",
            "Use a newer vLLM, or install the plugin that serves this model",
        )


def _has_own_code(start: PlannedStart, config: dict[str, Any]) -> bool:
    """Whether the model's own code may read config.json."""
    return bool(config.get("auto_map")) and start.has("--trust-remote-code")
