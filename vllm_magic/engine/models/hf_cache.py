"""The models in the Hugging Face cache (huggingface_hub's documentation describes its folders: blobs, refs, snapshots)."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.engine.models.model_files import PREFIX, cache_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INCOMPLETE = ".incomplete"  # parts of the file HASH are called HASH.incomplete or HASH.RANDOM.incomplete
MOST = 200  # models of a cache whose names are given, at most
FRESH = 30.0  # seconds without a new byte after which a download counts as aborted


@dataclass(frozen=True)
class Model:
    """A model on disk.

    Attributes:
        name: the name for vLLM.
        size: the bytes of the model's files, including parts of files whose download was aborted.
        complete: whether every file whose download has begun is complete.
        changed: the time of the last download of one of its files, in seconds since the epoch.
    """

    name: str
    size: int
    complete: bool
    changed: float


def folder(args: Sequence[str], environ: Mapping[str, str]) -> Path:
    """Return the folder in which vLLM keeps models: ``--download-dir``, or the Hugging Face cache."""
    configured = flags.value(args, "--download-dir")
    return expanded(configured) if configured else cache_folder(environ)


def names(cache: Path, most: int = MOST) -> list[str]:
    """Return the names of models of which the cache has a snapshot; of a large cache, only the first `most` folders count.

    Unlike `models`, this does not examine the files of the models. (`huggingface_hub.scan_cache_dir` does, and is slow to import.)
    """
    try:
        with os.scandir(cache) as entries:
            folders = [*islice((entry for entry in entries if entry.name.startswith(PREFIX)), most)]
        return [_name(entry.name) for entry in folders if any(Path(entry.path, "snapshots").glob("*"))]
    except OSError:
        return []


def models(cache: Path) -> list[Model]:
    """Return the models in the cache, sorted by name; [] if there is no cache."""
    try:
        found = [entry for entry in cache.iterdir() if entry.name.startswith(PREFIX)]
    except OSError:
        return []
    return sorted(
        (_model(entry) for entry in found if (entry / "blobs").is_dir()), key=lambda model: model.name
    )


def arriving(blobs: Path) -> tuple[int, bool]:
    """Return the bytes of a model's files that are complete or being downloaded, and whether any is being downloaded.

    Parts of downloads that were aborted earlier do not count: huggingface_hub leaves them, and begins such a file again under
    another name.
    """
    files = _files(blobs)
    newest = time.time() - FRESH
    parts = [
        status.st_size
        for name, status in files.items()
        if name.endswith(INCOMPLETE) and status.st_mtime >= newest
    ]
    complete = sum(status.st_size for name, status in files.items() if not name.endswith(INCOMPLETE))
    return complete + sum(parts), bool(parts)


def partial(blobs: Path) -> int:
    """Return the bytes of all parts of files, of downloads that are under way or were aborted."""
    return sum(status.st_size for name, status in _files(blobs).items() if name.endswith(INCOMPLETE))


def _model(path: Path) -> Model:
    files = _files(path / "blobs")
    return Model(
        name=_name(path.name),
        size=sum(status.st_size for status in files.values()),
        complete={name.partition(".")[0] for name in files} <= files.keys(),
        changed=max((status.st_mtime for status in files.values()), default=0.0),
    )


def _name(folder: str) -> str:
    return folder.removeprefix(PREFIX).replace("--", "/")


def _files(blobs: Path) -> dict[str, os.stat_result]:
    files = {}
    with suppress(OSError), os.scandir(blobs) as found:
        for file in found:
            with suppress(OSError):  # the file was renamed meanwhile
                files[file.name] = file.stat(follow_symlinks=False)
    return files
