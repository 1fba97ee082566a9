"""Refuse a model that vLLM cannot find: a path that is not there, no possible name, or not cached while offline."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.engine.models import hf_cache, hub
from vllm_magic.engine.models.model_files import LARGEST_REF, cache_folder, folder_name, snapshot
from vllm_magic.engine.start_checks import similar_paths
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.linux import files

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

ALIKE = 3  # models of the cache that a message names, at most
# The name of a model on the Hub: huggingface_hub's utils/_validators.py. Its versions before 1.0 allow letters of all scripts.
_NAME = re.compile(r"(\b[\w\-.]+\b/)?\b[\w\-.]{1,96}\b")
_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w\-.]+/[\w\-.]+)(?:/(?:tree|blob)/.*)?/?"
)
_OF_A_FOLDER = (".safetensors", ".bin", ".json")  # endings of files that vLLM finds by their folder
_EXAMPLE = "Give a name such as Qwen/Qwen3-0.6B, or the path of a folder"


def check(start: PlannedStart) -> None:
    """Check that the model may be found, and the tokenizer.

    Raises:
        InvalidOption: the path of another tokenizer is not there.
        StartFailed: the model cannot be found.
    """
    model = start.spec.model
    # A reference to an object store, or to GGUF files on the Hub (NAME:QUANTIZATION, NAME/FILE.gguf).
    is_reference = ":" in model or (model.endswith(".gguf") and not model.startswith("/"))
    if start.has_other_source:
        return
    _check_tokenizer(start)
    if os.path.exists(start.path):  # noqa: PTH110 - Path.exists raises for some names
        _check_file(start)
        return
    if (page := _PAGE.fullmatch(model)) and not model.endswith(".gguf"):
        raise StartFailed(
            f"{model} is a page of the Hub, and vLLM takes the name of a model", f"Give {page[1]}"
        )
    if is_reference:
        return
    if model.startswith("/") or model.count("/") > 1:
        raise StartFailed(f"{model} is not there", similar_paths.nearest(start.path))
    if reason := _why_no_name(model):
        raise StartFailed(f"{model} cannot be the name of a model on the Hub: {reason}", _EXAMPLE)
    if variable := hub.offline(start.environ):
        _check_cache(start, variable)


def _check_tokenizer(start: PlannedStart) -> None:
    """Check that the path of another tokenizer is there."""
    path = start.value("--tokenizer") or ""
    mode = start.value("--tokenizer-mode") or "auto"  # plugins add others
    is_read = not start.has("--skip-tokenizer-init") and mode in ("auto", "hf", "slow", "mistral")
    if path.startswith("/") and is_read and not os.path.exists(path):  # noqa: PTH110
        raise InvalidOption(f"--tokenizer {path} is not there. {similar_paths.nearest(Path(path))}")


def _check_file(start: PlannedStart) -> None:
    """Check that the path is not that of one file of a folder. GGUF files, and those of other loaders, have other endings."""
    path = start.path
    if path.suffix in _OF_A_FOLDER and path.is_file() and not start.has("--config-format", "--load-format"):
        raise StartFailed(f"{path} is a file, and vLLM takes the folder of a model", f"Give {path.parent}")


def _why_no_name(name: str) -> str:
    """Return which of huggingface_hub's rules the name breaks; "" if none."""
    if wrong := re.search(r"[^\w\-./]", name):
        return f"{wrong[0]!r} is not among the letters, digits, '-', '_' and '.' that a name has"
    if not _NAME.fullmatch(name):
        return "a name begins and ends with a letter, a digit or '_', and has 96 characters at most"
    if found := next((two for two in ("--", "..") if two in name), None):
        return f"it contains {found}"
    return "it ends with .git" if name.endswith(".git") else ""


def _check_cache(start: PlannedStart, variable: str) -> None:
    """Check that the model is in the cache, as it must be while this variable forbids asking the Hub."""
    spec = start.spec
    cache = cache_folder(start.environ)
    if start.folder or snapshot(cache, spec):
        return
    forbidden = f"{variable} forbids asking the Hub"
    if revisions := _revisions(cache / folder_name(spec.model)):
        wanted = flags.value(spec.all_args, "--revision") or "main"
        raise StartFailed(
            f"The revision {wanted} of {spec.model} is not on this machine, and {forbidden}",
            f"Use --revision {' or '.join(revisions)}, or unset {variable}",
        )
    near = " or ".join(_alike(spec.model, hf_cache.names(cache)))
    raise StartFailed(
        f"{spec.model} is not on this machine, and {forbidden}",
        f"Did you mean {near}? Or unset {variable} to download it"
        if near
        else f"Unset {variable} to download it; it was looked for in {cache}",
    )


def _revisions(kept: Path) -> list[str]:
    """Return the revisions of a model that are in the cache: names, and commits without a name."""
    try:
        commits = {path.name for path in (kept / "snapshots").iterdir()}
        refs = [path for path in (kept / "refs").glob("*") if path.is_file()]
        named = {ref.name: files.read_regular(ref, LARGEST_REF).decode().strip() for ref in refs}
    except (OSError, ValueError):
        return []
    names = [name for name, commit in named.items() if commit in commits]
    return sorted(names) + sorted(commits - set(named.values()))


def _alike(name: str, there: list[str]) -> list[str]:
    by_name = {one.casefold(): one for one in there}
    return [by_name[one] for one in get_close_matches(name.casefold(), by_name, ALIKE)]
