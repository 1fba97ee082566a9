"""How far a download of weights is, from the files in the Hugging Face cache: vLLM itself shows nothing of it.

It disables huggingface_hub's bar (vLLM 0.32, model_executor/model_loader/weight_utils.py). What is being downloaded is
``blobs/*.incomplete`` in the model's folder there.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.models import hf_cache
from vllm_magic.linux import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SPAN = 5.0  # seconds over which the speed is taken
LONGEST_INDEX = 2**24  # bytes; those of the largest models take a few million
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Download:
    """One that goes on.

    Attributes:
        done: bytes that are here.
        total: bytes of all weights, from their index; None where it is not here, as for weights in one file.
        speed: bytes a second; None at first.
    """

    done: int
    total: int | None
    speed: float | None


class Downloads:
    """Looks at one model's folder in the cache. For one thread.

    Args:
        model: as vLLM is told it.
        args: vLLM's flags.
        environ: the server's environment.
        clock: gives seconds.
    """

    def __init__(
        self,
        model: str,
        args: Sequence[str],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = (
            None if Path(model).exists() else hf_cache.folder(args, environ) / hf_cache.folder_name(model)
        )
        self._clock = clock
        self._seen: list[tuple[float, int]] = []

    def look(self) -> Download | None:
        """The download that goes on now; None where none does."""
        if self._folder is None:
            return None
        done, goes_on = hf_cache.arriving(self._folder / "blobs")
        if not goes_on:
            self._seen.clear()
            return None
        now = self._clock()
        self._seen = [(at, size) for at, size in self._seen if now - at <= SPAN] + [(now, done)]
        begin, before = self._seen[0]
        speed = (done - before) / (now - begin) if now > begin else None
        return Download(done, self._total(done), speed)

    def _total(self, done: int) -> int | None:
        for index in self._folder.glob(f"snapshots/*/{INDEX}") if self._folder else ():
            content = _load(index)
            metadata = content.get("metadata") if isinstance(content, dict) else None
            total = metadata.get("total_size") if isinstance(metadata, dict) else None
            if isinstance(total, int) and total >= done:
                return total
        return None


def _load(path: Path) -> object:
    try:
        return json.loads(files.read_regular(path, LONGEST_INDEX))
    except (OSError, ValueError, RecursionError):
        return None
