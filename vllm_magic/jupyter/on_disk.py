"""Find models and files on this machine that complete a typed text, without the network."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.models import hf_cache
from vllm_magic.engine.models.model_files import cache_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ENTRIES = 200  # the largest number of entries that are yielded for a text


def cached_models() -> list[str]:
    """Return the names of the models in the Hugging Face cache."""
    return hf_cache.names(cache_folder(os.environ))


def model_folders(typed: str) -> Iterator[str]:
    """Yield the folders that hold a model and whose paths begin with the text.

    If the text is a path, yield the other folders too, with a slash at the end.
    """
    is_path = "/" in typed or typed in (".", "..", "~")
    for path, entry in _beginning_with(typed):
        if not entry.is_dir():
            continue
        if Path(entry.path, "config.json").exists():
            yield path
        elif is_path:
            yield f"{path}/"


def files(typed: str) -> Iterator[str]:
    """Yield the files and folders whose paths begin with the text, a folder with a slash at the end."""
    for path, entry in _beginning_with(typed):
        yield f"{path}/" if entry.is_dir() else path


def _beginning_with(typed: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the paths that begin with the text, with their entries.

    Hidden files are left out, unless the last part of the text begins with a dot.
    """
    if typed in (".", "..", "~"):
        typed += "/"
    folder, slash, name = typed.rpartition("/")
    for entry in islice(_entries(expanded(folder + slash), name), MOST_ENTRIES):
        if name or not entry.name.startswith("."):
            yield f"{folder}{slash}{entry.name}", entry


def _entries(folder: Path, prefix: str) -> Iterator[os.DirEntry[str]]:
    """Yield the entries whose names begin with the prefix; none if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.name.startswith(prefix))
    except (OSError, ValueError):
        return
