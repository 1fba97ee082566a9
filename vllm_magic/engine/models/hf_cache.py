"""The models in the Hugging Face cache (its folder is laid out as huggingface_hub describes it: blobs, refs, snapshots)."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.engine.models.model_files import cache_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PREFIX = "models--"  # models--ORGANISATION--NAME
INCOMPLETE = ".incomplete"  # HASH.incomplete or HASH.RANDOM.incomplete, of the file HASH
FRESH = 30.0  # seconds without a byte after which a download is taken for broken off


@dataclass(frozen=True)
class Model:
    """A model on disk.

    Attributes:
        name: as vLLM is told it.
        size: bytes of its files, those of downloads that were broken off too.
        complete: whether each file that was begun is here whole.
        changed: when something of it was downloaded last, in seconds since the epoch.
    """

    name: str
    size: int
    complete: bool
    changed: float


def folder(args: Sequence[str], environ: Mapping[str, str]) -> Path:
    """Where vLLM keeps models: ``--download-dir``, or the Hugging Face cache."""
    told = flags.value(args, "--download-dir")
    return expanded(told) if told else cache_folder(environ)


def folder_name(model: str) -> str:
    """The name of a model's folder in the cache."""
    return f"{_PREFIX}{model.replace('/', '--')}"


def models(cache: Path) -> list[Model]:
    """Those that are there, by name; [] where there is no cache."""
    try:
        found = [entry for entry in cache.iterdir() if entry.name.startswith(_PREFIX)]
    except OSError:
        return []
    return sorted((_model(entry) for entry in found if (entry / "blobs").is_dir()), key=lambda one: one.name)


def arriving(blobs: Path) -> tuple[int, bool]:
    """Bytes of a model's files that are here or on their way, and whether some are on their way.

    What was broken off earlier stays: huggingface_hub begins such a file anew, under another name.
    """
    files = _files(blobs)
    newest = time.time() - FRESH
    parts = [
        one.st_size for name, one in files.items() if name.endswith(INCOMPLETE) and one.st_mtime >= newest
    ]
    return sum(one.st_size for name, one in files.items() if not name.endswith(INCOMPLETE)) + sum(
        parts
    ), bool(parts)


def _model(path: Path) -> Model:
    files = _files(path / "blobs")
    return Model(
        name=path.name.removeprefix(_PREFIX).replace("--", "/"),
        size=sum(status.st_size for status in files.values()),
        complete={name.partition(".")[0] for name in files} <= files.keys(),
        changed=max((status.st_mtime for status in files.values()), default=0.0),
    )


def _files(blobs: Path) -> dict[str, os.stat_result]:
    files = {}
    with suppress(OSError), os.scandir(blobs) as found:
        for file in found:
            with suppress(OSError):  # renamed meanwhile
                files[file.name] = file.stat(follow_symlinks=False)
    return files
