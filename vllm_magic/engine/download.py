"""How far a download of weights is, from the files in the Hugging Face cache: vLLM itself shows nothing of it.

It disables huggingface_hub's bar (vLLM 0.32, model_executor/model_loader/weight_utils.py). What is being downloaded is
``blobs/*.incomplete`` in the model's folder there.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import cache
from vllm_magic.engine import flags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SPAN = 5.0  # seconds over which the speed is taken
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
        self._folder = None if Path(model).exists() else cache_folder(args, environ) / _folder_name(model)
        self._clock = clock
        self._seen: list[tuple[float, int]] = []

    def look(self) -> Download | None:
        """The download that goes on now; None where none does."""
        if self._folder is None:
            return None
        sizes = _sizes(self._folder / "blobs")
        if not any(name.endswith(".incomplete") for name in sizes):
            self._seen.clear()
            return None
        now, done = self._clock(), sum(sizes.values())
        self._seen = [(at, size) for at, size in self._seen if now - at <= SPAN] + [(now, done)]
        begin, before = self._seen[0]
        speed = (done - before) / (now - begin) if now > begin else None
        return Download(done, self._total(done), speed)

    def _total(self, done: int) -> int | None:
        for index in self._folder.glob(f"snapshots/*/{INDEX}") if self._folder else ():
            content = cache.read(index)
            metadata = content.get("metadata") if isinstance(content, dict) else None
            total = metadata.get("total_size") if isinstance(metadata, dict) else None
            if isinstance(total, int) and total >= done:
                return total
        return None


def cache_folder(args: Sequence[str], environ: Mapping[str, str]) -> Path:
    """Where vLLM keeps models: ``--download-dir``, ``$HF_HUB_CACHE``, ``$HF_HOME/hub``, else in ``~/.cache``."""
    told = flags.value(args, "--download-dir") or environ.get("HF_HUB_CACHE")
    if told:
        return Path(told).expanduser()
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


def _folder_name(model: str) -> str:
    return f"models--{model.replace('/', '--')}"


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    with suppress(OSError), os.scandir(folder) as found:
        for file in found:
            with suppress(OSError):  # renamed meanwhile
                sizes[file.name] = file.stat(follow_symlinks=False).st_size
    return sizes
