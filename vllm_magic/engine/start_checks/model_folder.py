"""Refuse a folder in which vLLM cannot find what it needs of a model, or whose weights are damaged.

The folder is one of this machine, or the model's snapshot in the cache while the Hub may not be asked: otherwise vLLM completes
the snapshot by itself.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from vllm_magic.engine.capacity import weights
from vllm_magic.engine.models import hub, model_files
from vllm_magic.engine.models.model_files import INDEX
from vllm_magic.errors import NoEstimate, StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
MOST = 5000  # names of files that are read of a folder, at most
LONGEST = 0.5  # seconds for the headers of the weights; vLLM itself finds what is damaged in the others
# The endings of the files that vLLM's default loader reads for each --load-format; other loaders read other files
# (vllm/model_executor/model_loader/default_loader.py; before 0.32 also *.pt for each of them).
_ANY = (".safetensors", ".bin", ".pt")
_ENDINGS = {
    **dict.fromkeys(("auto", "hf"), _ANY),
    **dict.fromkeys(("safetensors", "fastsafetensors", "instanttensor", "mistral"), (".safetensors", ".pt")),
    "npcache": (".bin", ".pt"),
    "pt": (".pt",),
}
# Weights that only some models or plugins have read.
_OTHER_WEIGHTS = (".gguf", ".pth", ".ckpt", ".tensors")
_CONFIG_FORMATS = ("auto", "hf", "mistral")  # plugins add others
# Part of a name of each file that a tokenizer may be read from.
_TOKENIZER = re.compile(r"token|tekken|vocab|merges|spiece|sentencepiece|spm|bpe|\.model$", re.IGNORECASE)
# The types of models for which Transformers 4.57 and 5.24 make no tokenizer without its files. For others, such as qwen3, 5.24
# makes one that knows no words, and vLLM 0.32 starts with it.
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
# The tensors that each language model loads: of its layers, and of its embedding.
_LAYER = re.compile(r"(?:(?:language_)?model\.){1,2}layers\.(\d{1,4})\.")
_EMBEDDING = re.compile(r"(?:(?:language_)?model\.){1,2}embed_tokens\.")


def check(start: PlannedStart) -> None:
    """Check the files of the model.

    Raises:
        StartFailed: one that vLLM needs is missing or damaged.
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
        return  # these are no models of Transformers' format
    again = f"Unset {variable} to complete its download" if is_cached else ""
    _check_config(start, folder, names, again)
    _check_weights(start, folder, names, again)
    _check_tokenizer(start, folder, names, again)


def _check_config(start: PlannedStart, folder: Path, names: Sequence[str], again: str) -> None:
    if (start.value("--config-format") or "auto") not in _CONFIG_FORMATS or "params.json" in names:
        return
    if CONFIG not in names:
        raise _lacks(folder, f"no {CONFIG}", again or _where_is_config(folder, names))
    try:
        raw, size = model_files.read_start(folder / CONFIG, model_files.LARGEST_CONFIG)
        if size <= len(raw):
            model_files.json_object(raw, CONFIG)
    except NoEstimate as error:
        raise _damaged(folder, error.reason, _repair(folder / CONFIG, error.reason, again)) from None


def _where_is_config(folder: Path, names: Sequence[str]) -> str:
    """Return what to do without a config.json."""
    if "adapter_config.json" in names:
        return f"It is a LoRA adapter. Start {_base(folder)} with --enable-lora --lora-modules NAME={folder}"
    for pattern in (f"*/{CONFIG}", f"snapshots/*/{CONFIG}"):
        if found := max(islice(folder.glob(pattern), MOST), default=None):
            return f"Did you mean {found.parent}?"
    return "Give the folder with the model's config.json and weights"


def _base(adapter: Path) -> str:
    with suppress(NoEstimate):
        base = model_files.read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
        if isinstance(base, str) and base:
            return base
    return "its base model"


def _check_weights(start: PlannedStart, folder: Path, names: Sequence[str], again: str) -> None:
    kind = (start.value("--load-format") or "auto").lower()
    endings = _ENDINGS.get(kind, ())
    if not endings or start.has("--model-weights"):
        return
    consolidated = [one for one in names if re.fullmatch(r"consolidated.*\.safetensors", one)]
    if consolidated and kind in ("auto", "mistral"):
        loaded = consolidated
    elif INDEX in names and kind != "mistral" and any(name.endswith(".safetensors") for name in names):
        loaded = _of_index(start, folder, names, again)
    else:
        loaded = next(filter(None, (_ending(names, one) for one in endings)), [])
    if not loaded and not _may_be_weights(folder, names, endings):
        looked = ", ".join(f"*{ending}" for ending in endings)
        raise _lacks(folder, f"no weights ({looked})", again or "Download or copy them")
    end = time.monotonic() + LONGEST
    for name in loaded:
        if time.monotonic() < end and (damage := weights.damage(folder / name)):
            raise _damaged(folder, damage, _repair(folder / name, damage, again))


def _of_index(start: PlannedStart, folder: Path, names: Sequence[str], again: str) -> list[str]:
    """Return the files that the index names and that are there; refuse one that is not there and is needed."""
    try:
        where, _ = weights.files_by_tensor(folder)
    except NoEstimate as error:
        raise _damaged(folder, error.reason, _repair(folder / INDEX, error.reason, again)) from None
    files = set(where.values())
    missing = sorted(files.difference(names))
    if needed := next((file for file in missing if _is_needed(start, file, where)), None):
        there = f"only {len(files) - len(missing)} of the {len(files)} files of weights"
        raise _lacks(folder, f"{there}: {needed} is missing", again or "Download or copy the others")
    return sorted(files.intersection(names))


def _is_needed(start: PlannedStart, file: str, where: Mapping[str, str]) -> bool:
    """Whether vLLM certainly loads a tensor of the file. It leaves out layers for drafts, which come after those of the model."""
    if start.has("--hf-overrides", "--mm-encoder-only"):  # with fewer layers, or none
        return False
    count = _layers(start.config or {})
    tensors = [tensor for tensor, one in where.items() if one == file]
    layers = filter(None, map(_LAYER.match, tensors))
    return any(map(_EMBEDDING.match, tensors)) or any(int(layer[1]) < count for layer in layers)


def _layers(config: Mapping[str, object]) -> int:
    """Return the number of layers of the language model; 0 if config.json does not say it."""
    text = config.get("text_config")
    for described in (config, text if isinstance(text, dict) else {}):
        if isinstance(count := described.get("num_hidden_layers"), int):
            return count
    return 0


def _check_tokenizer(start: PlannedStart, folder: Path, names: Sequence[str], again: str) -> None:
    config = start.config or {}
    is_elsewhere = start.has("--tokenizer", "--skip-tokenizer-init", "--tokens-only")
    if is_elsewhere or "auto_map" in config or "speculators_config" in config:
        return
    is_any = any(map(_TOKENIZER.search, (*names, *_below(folder))))
    if not is_any and str(config.get("model_type")) in _NO_EMPTY_TOKENIZER:
        hint = "Add the model's tokenizer.json to it, or give another tokenizer: --tokenizer NAME"
        raise _lacks(folder, "no tokenizer", again or hint)
    is_transformers = (start.value("--tokenizer-mode") or "auto") in ("auto", "hf") and not any(
        re.match(r"tekken\.json|tokenizer\.model\.v", name) for name in names
    )
    if TOKENIZER in names and is_transformers and (damage := weights.damage(folder / TOKENIZER)):
        raise _damaged(folder, damage, _repair(folder / TOKENIZER, damage, again))


def _lacks(folder: Path, what: str, hint: str) -> StartFailed:
    """Return the error for a folder that lacks something. A link to nothing is named: a copy of a snapshot may have links only."""
    with suppress(OSError), os.scandir(folder) as entries:
        links = (
            entry.name for entry in entries if entry.is_symlink() and not (entry.is_file() or entry.is_dir())
        )
        if link := min(links, default=""):
            what = f"{what}, and {link} in it is a link to nothing"
    return StartFailed(f"{folder} has {what}", hint)


def _damaged(folder: Path, reason: str, hint: str) -> StartFailed:
    """Return the error for a damaged file; the reason begins with its name."""
    return StartFailed(f"{folder}/{reason.removesuffix('.')}", hint)


def _repair(path: Path, damage: str, again: str) -> str:
    if again:  # huggingface_hub does not download a file again that it has under the name of the content
        return f"Remove {path.resolve()}. {again}"
    return f"Fetch it: git -C {path.parent} lfs pull" if "Git LFS" in damage else "Download or copy it again"


def _names(folder: Path) -> list[str] | None:
    """Return the sorted names of the files in a folder; None if it cannot be read or has too many. A link to nothing is no file."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in islice(entries, MOST) if entry.is_file()]
    except OSError:
        return None
    return sorted(found) if len(found) < MOST else None


def _ending(names: Iterable[str], ending: str) -> list[str]:
    return [name for name in names if name.endswith(ending) and not name.startswith(weights.NOT_WEIGHTS)]


def _may_be_weights(folder: Path, names: Sequence[str], endings: tuple[str, ...]) -> bool:
    """Whether files may hold weights that only some models read: of other endings, or in a folder below."""
    below = any(name.endswith(endings) for name in _below(folder))
    return below or any(name.endswith(_OTHER_WEIGHTS) for name in names)


def _below(folder: Path) -> Iterator[str]:
    """Yield the names of the files one level below."""
    return (path.name for path in islice(folder.glob("*/*"), MOST))
