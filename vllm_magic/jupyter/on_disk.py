"""Models and files on this machine, as completions of a typed text. Nothing here uses the network."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.models.model_files import cache_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 200  # the largest number of entries of a folder that are examined
PREFIX = "models--"  # a model's folder in the Hugging Face cache is models--ORGANISATION--NAME


def cached_models() -> Iterator[str]:
    """Yield the names of the models in the Hugging Face cache.

    This does not use huggingface_hub's `scan_cache_dir`, which reads every file of the models, and is slow to import.
    """
    for entry in islice(_entries(cache_folder(os.environ), PREFIX), MOST):
        if any(_entries(Path(entry.path, "snapshots"))):
            yield entry.name.removeprefix(PREFIX).replace("--", "/")


def model_folders(typed: str) -> Iterator[str]:
    """Yield the folders that begin with the text and hold a model; for a path, also other folders, with a slash at the end."""
    is_path = "/" in typed or typed in (".", "..", "~")
    for name, entry in _named(typed):
        if not entry.is_dir():
            continue
        if Path(entry.path, "config.json").exists():
            yield name
        elif is_path:
            yield f"{name}/"


def files(typed: str) -> Iterator[str]:
    """Yield the files and folders that begin with the text, a folder with a slash at the end."""
    for name, entry in _named(typed):
        yield f"{name}/" if entry.is_dir() else name


def _named(typed: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the paths that begin with the text, each with its entry; hidden ones only if the last part begins with a dot."""
    if typed in (".", "..", "~"):
        typed += "/"
    folder, slash, beginning = typed.rpartition("/")
    here = f"{folder}{slash}"
    for entry in islice(_entries(expanded(here), beginning), MOST):
        if beginning or not entry.name.startswith("."):
            yield f"{here}{entry.name}", entry


def _entries(folder: Path, beginning: str = "") -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if entry.name.startswith(beginning))
    except (OSError, ValueError):
        return
