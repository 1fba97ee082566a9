"""Models and files on this machine, as what a word can be completed to. Nothing here asks the network."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.models.model_files import cache_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 200  # of a folder that holds more, so many are looked at closely
PREFIX = "models--"  # a model's folder in the Hugging Face cache is models--ORGANISATION--NAME


def cached_models() -> Iterator[str]:
    """The models in the Hugging Face cache, by name.

    Not by its own `scan_cache_dir`, which looks at every file of them, and takes long to be imported.
    """
    for entry in islice(_entries(cache_folder(os.environ), PREFIX), MOST):
        if any(_entries(Path(entry.path, "snapshots"))):
            yield entry.name.removeprefix(PREFIX).replace("--", "/")


def model_folders(typed: str) -> Iterator[str]:
    """The folders that begin so and hold a model; of a path also those that lead on, with a slash behind."""
    leads_on = "/" in typed or typed in (".", "..", "~")
    for name, entry in _named(typed):
        if not entry.is_dir():
            continue
        if Path(entry.path, "config.json").exists():
            yield name
        elif leads_on:
            yield f"{name}/"


def files(typed: str) -> Iterator[str]:
    """The files and folders that begin so, a folder with a slash behind."""
    for name, entry in _named(typed):
        yield f"{name}/" if entry.is_dir() else name


def _named(typed: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What is in the folder that is typed so far, as it would be written; hidden ones where a dot asks for them."""
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
