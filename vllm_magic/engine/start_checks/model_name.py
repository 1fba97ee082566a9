"""Refuse a model that vLLM cannot find: a missing path, an impossible name, or a model that is not cached while offline."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vllm_magic.engine import similar_paths
from vllm_magic.engine.flags import flags
from vllm_magic.engine.models import hf_cache, hub
from vllm_magic.engine.models.model_files import LARGEST_REF, cache_folder, folder_name, snapshot
from vllm_magic.engine.start_checks import foreign_names
from vllm_magic.errors import StartFailed
from vllm_magic.linux import files

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

MOST_SIMILAR = 3  # models of the cache that a message suggests, at most
# The name of a model on the Hub (utils/_validators.py of huggingface_hub, which allows letters of all scripts before 1.0).
_NAME = re.compile(r"(\b[\w\-.]+\b/)?\b[\w\-.]{1,96}\b")
_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w\-.]+/[\w\-.]+)(?:/(?:tree|blob)/.*)?/?"
)
# vLLM finds files with these endings by the path of their folder.
_FILES_OF_MODELS = (".safetensors", ".bin", ".json")
_EXAMPLE = "Give a name such as Qwen/Qwen3-0.6B, or the path of a folder"


def check(start: PlannedStart) -> None:
    """Check that vLLM can find the model.

    Raises:
        StartFailed: the model cannot be found.
    """
    model = start.spec.model
    # A reference to an object store, or to GGUF files on the Hub (NAME:QUANTIZATION, NAME/FILE.gguf).
    is_reference = ":" in model or (model.endswith(".gguf") and not model.startswith("/"))
    if start.has_other_source:
        return
    if os.path.exists(start.path):  # noqa: PTH110 - Path.exists raises for some names
        _check_file(start)
        return
    if (page := _PAGE.fullmatch(model)) and not model.endswith(".gguf"):
        raise StartFailed(
            f"{model} is a page of the Hub, and vLLM takes the name of a model", f"Give {page[1]}"
        )
    foreign_names.check(start)
    if is_reference:
        return
    if model.startswith("/") or model.count("/") > 1:
        raise StartFailed(f"{model} is not there", similar_paths.nearest(start.path))
    if reason := _broken_rule(model):
        raise StartFailed(f"{model} cannot be the name of a model on the Hub: {reason}", _EXAMPLE)
    if variable := hub.offline(start.environ):
        _check_cache(start, variable)


def _check_file(start: PlannedStart) -> None:
    """Check that the path is not that of a single file of a model. GGUF files, and files for other loaders, have other endings."""
    path = start.path
    is_of_model = path.suffix in _FILES_OF_MODELS and path.is_file()
    if is_of_model and not start.has("--config-format", "--load-format"):
        raise StartFailed(f"{path} is a file, and vLLM takes the folder of a model", f"Give {path.parent}")


def _broken_rule(name: str) -> str:
    """Return the rule of huggingface_hub that the name breaks; "" if there is none."""
    if wrong := re.search(r"[^\w\-./]", name):
        return f"{wrong[0]!r} is not among the letters, digits, '-', '_' and '.' that a name has"
    if not _NAME.fullmatch(name):
        return "a name begins and ends with a letter, a digit or '_', and has 96 characters at most"
    if found := next((text for text in ("--", "..") if text in name), None):
        return f"it contains {found}"
    return "it ends with .git" if name.endswith(".git") else ""


def _check_cache(start: PlannedStart, variable: str) -> None:
    """Check that the cache has the model, because this variable forbids asking the Hub."""
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
    near = " or ".join(_similar(spec.model, hf_cache.names(cache)))
    raise StartFailed(
        f"{spec.model} is not on this machine, and {forbidden}",
        f"Did you mean {near}? Or unset {variable} to download it"
        if near
        else f"Unset {variable} to download it. The cache is {cache}",
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


def _similar(name: str, cached: list[str]) -> list[str]:
    by_name = {other.casefold(): other for other in cached}
    return [by_name[folded] for folded in get_close_matches(name.casefold(), by_name, MOST_SIMILAR)]
