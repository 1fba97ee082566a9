"""Refuse a start whose model is on a disk that does not answer: the other checks, and vLLM, would wait for it without an end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.engine.models import hf_cache
from vllm_magic.errors import StartFailed, reason
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

_REMEDY = "Look at the server of that disk (findmnt shows the disk), or use a model on another disk"


def check(start: PlannedStart) -> None:
    """Check that the disks of the model's path and of the Hub's cache answer.

    Raises:
        StartFailed: one of them does not answer.
    """
    for path in (start.path, hf_cache.folder(start.spec.all_args, start.environ)):
        try:
            disk.call(path, os.path.exists, path, limit=start.limit(disk.LIMIT))
        except TimeoutError as error:
            raise StartFailed(reason(error), _REMEDY) from None
        except OSError:  # no process is free to ask the disk: vLLM says what it finds
            continue
