"""The progress of a download of weights, from the files in the Hugging Face cache.

vLLM shows no progress: it disables huggingface_hub's bar (vLLM 0.32, model_executor/model_loader/weight_utils.py). The files
that are being downloaded are ``blobs/*.incomplete`` in the model's folder of the cache.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.models import hf_cache
from vllm_magic.engine.models.model_files import INDEX, folder_name
from vllm_magic.linux import disk, files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SPAN = 5.0  # seconds over which the speed is measured
LONGEST_INDEX = 2**24  # bytes; the indices of the largest models have a few million


@dataclass(frozen=True)
class Download:
    """A download that is under way.

    Attributes:
        done: the bytes that have arrived.
        total: the bytes of all weights, from their index; None without an index, as for weights in one file.
        speed: the speed in bytes a second; None at first.
    """

    done: int
    total: int | None
    speed: float | None


class Downloads:
    """Measures the download of one model in the cache. For one thread.

    Args:
        model: the name for vLLM.
        args: vLLM's flags.
        environ: the server's environment.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        model: str,
        args: Sequence[str],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = None if _is_here(model) else hf_cache.folder(args, environ) / folder_name(model)
        self._clock = clock
        self._seen: list[tuple[float, int]] = []

    @property
    def locks(self) -> Path | None:
        """The folder with a lock for each file of the model that is downloaded (huggingface_hub, file_download.py)."""
        return self._folder and self._folder.parent / ".locks" / self._folder.name

    def progress(self) -> Download | None:
        """Return the download that is under way now; None if there is none, or if the disk does not answer."""
        if self._folder is None:
            return None
        try:
            done, goes_on, total = disk.call(self._folder, _arriving, self._folder)
        except OSError:
            return None
        if not goes_on:
            self._seen.clear()
            return None
        now = self._clock()
        self._seen = [(at, size) for at, size in self._seen if now - at <= SPAN] + [(now, done)]
        begin, before = self._seen[0]
        speed = (done - before) / (now - begin) if now > begin else None
        return Download(done, total, speed)


def _is_here(model: str) -> bool:
    """Whether the model is a folder of this machine; True also if the folder's disk does not answer."""
    path = Path(model).absolute()
    try:
        return disk.call(path, os.path.exists, path)
    except OSError:
        return True


def _arriving(folder: Path) -> tuple[int, bool, int | None]:
    """Return the bytes that have arrived, whether more arrive, and the bytes of all weights, if they are known."""
    done, goes_on = hf_cache.arriving(folder / "blobs")
    return done, goes_on, _total(folder, done) if goes_on else None


def _total(folder: Path, done: int) -> int | None:
    """Return the bytes of all weights, by an index in the cache; None if no index gives a sensible number."""
    for index in folder.glob(f"snapshots/*/{INDEX}"):
        content = _load(index)
        metadata = content.get("metadata") if isinstance(content, dict) else None
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        if isinstance(total, int) and total >= done:
            return total
    return None


def missing_bytes(snapshot: Path) -> int:
    """Return the bytes of weights that are still to be downloaded into the cache; 0 if all are there, or it is not known.

    All parts of files that a download has left count as downloaded, though huggingface_hub may begin such a file again.

    Args:
        snapshot: the folder of a snapshot of a model in the cache.

    Raises:
        OSError: a file has just been removed.
    """
    index = _load(snapshot / INDEX)
    metadata, names = (
        (index.get("metadata"), index.get("weight_map")) if isinstance(index, dict) else (None, None)
    )
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(total, int) or not isinstance(names, dict):
        return 0
    plain = {name for name in names.values() if isinstance(name, str) and Path(name).name == name}
    shards = [snapshot / name for name in plain]
    sizes = [shard.stat().st_size for shard in shards if shard.is_file()]
    if len(sizes) == len(shards):
        return 0
    return max(0, total - sum(sizes) - hf_cache.partial(snapshot.parents[1] / "blobs"))


def _load(path: Path) -> object:
    try:
        return json.loads(files.read_regular(path, LONGEST_INDEX))
    except (OSError, ValueError, RecursionError):
        return None
