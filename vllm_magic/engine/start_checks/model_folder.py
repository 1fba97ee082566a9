"""Refuse a model's folder that lacks a file which vLLM needs, or has a damaged file.

The folder is a local folder, or the model's snapshot in the cache if vLLM must not ask the Hub. Otherwise vLLM downloads
what the snapshot lacks.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from vllm_magic.engine.capacity import weights
from vllm_magic.engine.models import hub, model_files
from vllm_magic.engine.models.model_files import INDEX
from vllm_magic.engine.start_checks import all_problems
from vllm_magic.errors import NoEstimate, StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
MOST_FILES = 5000  # names of files of a folder that are read, at most
HEADERS_LIMIT = 0.5  # seconds for the headers of the weights; files that are left then are not checked
# The endings of the files that vLLM's default loader reads for each --load-format; other loaders read other files
# (vllm/model_executor/model_loader/default_loader.py; before 0.32 also *.pt for each of them).
_ANY = (".safetensors", ".bin", ".pt")
_ENDINGS = {
    **dict.fromkeys(("auto", "hf"), _ANY),
    **dict.fromkeys(("safetensors", "fastsafetensors", "instanttensor", "mistral"), (".safetensors", ".pt")),
    "npcache": (".bin", ".pt"),
    "pt": (".pt",),
}
# The endings of weights that only some models or plugins read.
_OTHER_WEIGHTS = (".gguf", ".pth", ".ckpt", ".tensors")
_CONFIG_FORMATS = ("auto", "hf", "mistral")  # plugins add others
# Found in the name of each file from which a tokenizer may be read.
_TOKENIZER = re.compile(r"token|tekken|vocab|merges|spiece|sentencepiece|spm|bpe|\.model$", re.IGNORECASE)
# The types of models for which Transformers 4.57 and 5.24 make no tokenizer without its files. For other types, such as qwen3,
# Transformers 5.24 makes a tokenizer without words, and vLLM 0.32 starts.
_NO_EMPTY_TOKENIZER = frozenset(
    [
        "deepseek_v2",
        "deepseek_v3",
        "glm4",
        "glm4_moe",
        "gpt_bigcode",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "jamba",
        "llama",
        "minimax_m2",
        "ministral",
        "mistral",
        "mistral3",
        "mixtral",
        "nemotron",
        "olmo2",
        "olmo3",
        "phi3",
        "phimoe",
        "stablelm",
    ]
)
# The names of tensors that every language model loads: those of its layers, and of its embedding.
_LAYER = re.compile(r"(?:(?:language_)?model\.){1,2}layers\.(\d{1,4})\.")
_EMBEDDING = re.compile(r"(?:(?:language_)?model\.){1,2}embed_tokens\.")


def check(start: PlannedStart) -> None:
    """Check the files of the model.

    Raises:
        StartFailed: a file that vLLM needs is missing or damaged.
    """
    folder = start.folder
    if folder is None or start.has_other_source:
        return
    variable = hub.offline(start.environ)
    is_cached = folder != start.path
    # With --download-dir, vLLM reads some files from there and others from the cache.
    if is_cached and (not variable or start.has("--download-dir")):
        return
    names = _names(folder)
    if names is None or "model_index.json" in names or any(name.endswith(".gguf") for name in names):
        return  # the model has another format than that of Transformers
    online_remedy = f"Unset {variable} to complete its download" if is_cached else ""
    if _has_config(start, names):
        parts = (_check_config, _check_weights, _check_tokenizer)
        all_problems.check([partial(part, folder, names, online_remedy) for part in parts], start)
    else:  # the user probably means another folder
        raise _lacks(folder, f"no {CONFIG}", online_remedy or _where_is_config(folder, names))


def _has_config(start: PlannedStart, names: Sequence[str]) -> bool:
    """Whether the folder has a config.json, or may do without one."""
    return CONFIG in names or _has_other_config(start, names)


def _has_other_config(start: PlannedStart, names: Sequence[str]) -> bool:
    return (start.value("--config-format") or "auto") not in _CONFIG_FORMATS or "params.json" in names


def _check_config(folder: Path, names: Sequence[str], online_remedy: str, start: PlannedStart) -> None:
    if _has_other_config(start, names):
        return
    try:
        raw, size = model_files.read_start(folder / CONFIG, model_files.LARGEST_CONFIG)
        if size <= len(raw):
            model_files.json_object(raw, CONFIG)
    except NoEstimate as error:
        raise _damaged(folder, error.reason, _repair(folder / CONFIG, error.reason, online_remedy)) from None


def _where_is_config(folder: Path, names: Sequence[str]) -> str:
    """Return what to do if the folder has no config.json."""
    if "adapter_config.json" in names:
        return f"It is a LoRA adapter. Start {_base(folder)} with --enable-lora --lora-modules NAME={folder}"
    for pattern in (f"*/{CONFIG}", f"snapshots/*/{CONFIG}"):
        if found := max(islice(folder.glob(pattern), MOST_FILES), default=None):
            return f"Did you mean {found.parent}?"
    return "Give the folder with the model's config.json and weights"


def _base(adapter: Path) -> str:
    with suppress(NoEstimate):
        base = model_files.read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
        if isinstance(base, str) and base:
            return base
    return "its base model"


def _check_weights(folder: Path, names: Sequence[str], online_remedy: str, start: PlannedStart) -> None:
    kind = (start.value("--load-format") or "auto").lower()
    endings = _ENDINGS.get(kind, ())
    if not endings or start.has("--model-weights"):
        return
    consolidated = [name for name in names if re.fullmatch(r"consolidated.*\.safetensors", name)]
    if consolidated and kind in ("auto", "mistral"):
        loaded = consolidated
    elif INDEX in names and kind != "mistral" and any(name.endswith(".safetensors") for name in names):
        loaded = _indexed_files(start, folder, names, online_remedy)
    else:
        loaded = next(filter(None, (_with_ending(names, ending) for ending in endings)), [])
    if not loaded and not _may_be_weights(folder, names, endings):
        patterns = ", ".join(f"*{ending}" for ending in endings)
        raise _lacks(folder, f"no weights ({patterns})", online_remedy or "Download or copy them")
    end = time.monotonic() + HEADERS_LIMIT
    for name in loaded:
        if time.monotonic() < end and (damage := weights.damage(folder / name)):
            raise _damaged(folder, damage, _repair(folder / name, damage, online_remedy))


def _indexed_files(start: PlannedStart, folder: Path, names: Sequence[str], online_remedy: str) -> list[str]:
    """Return the existing files that the index names. Refuse a folder that lacks an indexed file which vLLM needs."""
    try:
        file_by_tensor, _ = weights.files_by_tensor(folder)
    except NoEstimate as error:
        raise _damaged(folder, error.reason, _repair(folder / INDEX, error.reason, online_remedy)) from None
    files = set(file_by_tensor.values())
    missing = sorted(files.difference(names))
    if needed := next((file for file in missing if _is_needed(start, file, file_by_tensor)), None):
        there = f"only {len(files) - len(missing)} of the {len(files)} files of weights"
        raise _lacks(folder, f"{there}: {needed} is missing", online_remedy or "Download or copy the others")
    return sorted(files.intersection(names))


def _is_needed(start: PlannedStart, file: str, file_by_tensor: Mapping[str, str]) -> bool:
    """Whether vLLM certainly loads a tensor of the file.

    vLLM may leave out the layers for speculative decoding. Their numbers come after those of the model's own layers.
    """
    if start.has("--hf-overrides", "--mm-encoder-only"):  # the model may have fewer layers, or none
        return False
    count = _layers(start.config or {})
    tensors = [tensor for tensor, place in file_by_tensor.items() if place == file]
    layers = filter(None, map(_LAYER.match, tensors))
    return any(map(_EMBEDDING.match, tensors)) or any(int(layer[1]) < count for layer in layers)


def _layers(config: Mapping[str, object]) -> int:
    """Return the number of layers of the language model; 0 if config.json does not tell."""
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, dict) else {}):
        if isinstance(count := fields.get("num_hidden_layers"), int):
            return count
    return 0


def _check_tokenizer(folder: Path, names: Sequence[str], online_remedy: str, start: PlannedStart) -> None:
    config = start.config or {}
    is_not_needed = start.has("--tokenizer", "--skip-tokenizer-init", "--tokens-only")
    if is_not_needed or "auto_map" in config or "speculators_config" in config:
        return
    has_file = any(map(_TOKENIZER.search, (*names, *_below(folder))))
    if not has_file and str(config.get("model_type")) in _NO_EMPTY_TOKENIZER:
        hint = "Add the model's tokenizer.json to it, or give another tokenizer: --tokenizer NAME"
        raise _lacks(folder, "no tokenizer", online_remedy or hint)
    is_transformers = (start.value("--tokenizer-mode") or "auto") in ("auto", "hf") and not any(
        re.match(r"tekken\.json|tokenizer\.model\.v", name) for name in names
    )
    if TOKENIZER in names and is_transformers and (damage := weights.damage(folder / TOKENIZER)):
        raise _damaged(folder, damage, _repair(folder / TOKENIZER, damage, online_remedy))


def _lacks(folder: Path, what: str, hint: str) -> StartFailed:
    """Return the error for a folder that lacks something. The message names a link to nothing, as in a copied snapshot."""
    with suppress(OSError), os.scandir(folder) as entries:
        links = (
            entry.name for entry in entries if entry.is_symlink() and not (entry.is_file() or entry.is_dir())
        )
        if link := min(links, default=""):
            what = f"{what}, and {link} in it is a link to nothing"
    return StartFailed(f"{folder} has {what}", hint)


def _damaged(folder: Path, reason: str, hint: str) -> StartFailed:
    """Return the error for a damaged file. The reason begins with the name of the file."""
    return StartFailed(f"{folder}/{reason.removesuffix('.')}", hint)


def _repair(path: Path, damage: str, online_remedy: str) -> str:
    if online_remedy:  # huggingface_hub does not download a file again while the cache has it
        return f"Remove {path.resolve()}. {online_remedy}"
    return f"Fetch it: git -C {path.parent} lfs pull" if "Git LFS" in damage else "Download or copy it again"


def _names(folder: Path) -> list[str] | None:
    """Return the sorted names of the files in a folder, without links to nothing; None if it cannot be read or has too many."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in islice(entries, MOST_FILES) if entry.is_file()]
    except OSError:
        return None
    return sorted(found) if len(found) < MOST_FILES else None


def _with_ending(names: Iterable[str], ending: str) -> list[str]:
    return [name for name in names if name.endswith(ending) and not name.startswith(weights.NOT_WEIGHTS)]


def _may_be_weights(folder: Path, names: Sequence[str], endings: tuple[str, ...]) -> bool:
    """Whether the folder may have weights that only some models read: with other endings, or in a folder below."""
    below = any(name.endswith(endings) for name in _below(folder))
    return below or any(name.endswith(_OTHER_WEIGHTS) for name in names)


def _below(folder: Path) -> Iterator[str]:
    """Yield the names of the files in the folders of this folder."""
    return (path.name for path in islice(folder.glob("*/*"), MOST_FILES))
