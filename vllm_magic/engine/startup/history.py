"""The times of the stages of earlier starts, by model and flags, stored in the cache folder."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.engine import cache
from vllm_magic.engine.startup.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.spec import ServerSpec

FOLDER_NAME = "starts"
MOST_STARTS = 200  # the number of starts that are stored
MODEL_KEY = "model"  # the key of the model's name, beside the names of the stages
LONGEST_STAGE = 24 * 3600.0  # seconds that a stage may have taken


def earlier(spec: ServerSpec, *, warm: bool = False) -> dict[Stage, float]:
    """Return the seconds of each stage of the last start of this model with these flags; {} if there was none.

    Args:
        spec: the server that is started.
        warm: whether the server starts from a spare; its stages take other times.
    """
    stored = _read(_file(spec, warm=warm))
    times = {stage: stored.get(stage.name) for stage in Stage}
    return {
        stage: float(seconds)
        for stage, seconds in times.items()
        if isinstance(seconds, (int, float)) and 0 <= seconds <= LONGEST_STAGE
    }


def keep(spec: ServerSpec, stages: Mapping[Stage, float], *, warm: bool = False) -> None:
    """Store the times of this start, if it has stages. An error of the disk is ignored. Arguments as for `earlier`."""
    if not stages:
        return
    with suppress(OSError):
        times = {stage.name: round(seconds, 3) for stage, seconds in stages.items()}
        cache.write(
            FOLDER_NAME, _file(spec, warm=warm), json.dumps({MODEL_KEY: spec.model, **times}).encode()
        )
        cache.prune(FOLDER_NAME, MOST_STARTS)


def models() -> list[str]:
    """Return the models that were started before, the latest first, each model once."""
    stored = [_read(name).get(MODEL_KEY) for name in cache.names(FOLDER_NAME)]
    return list(dict.fromkeys(model for model in stored if isinstance(model, str)))


def _read(name: str) -> dict[str, object]:
    try:
        content = json.loads(cache.read(FOLDER_NAME, name) or b"null")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _file(spec: ServerSpec, *, warm: bool = False) -> str:
    """Return the name of the file for all starts of this kind: with the same model, flags, GPUs and vLLM."""
    same = json.dumps([spec.model, spec.all_args, spec.gpus, spec.executable, *(["warm"] if warm else [])])
    return f"{hashlib.sha256(same.encode()).hexdigest()[:16]}.json"
