"""Refuse a start that continues a download, if the disk is too small for the rest of it. The model's index tells the size."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from vllm_magic.engine.models import download
from vllm_magic.errors import StartFailed
from vllm_magic.sizes import GIB

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

# The values of --load-format with which vLLM downloads the files that the model's index names.
_FORMATS_WITH_INDEX = (None, "auto", "safetensors")


def check(start: PlannedStart) -> None:
    """Check the disk space for the rest of a download that began earlier.

    Raises:
        StartFailed: the disk has too little.
    """
    folder = start.folder
    if (
        folder is None
        or folder.parent.name != "snapshots"
        or start.value("--load-format") not in _FORMATS_WITH_INDEX
    ):
        return
    try:
        missing, free = download.missing_bytes(folder), shutil.disk_usage(folder).free
    except OSError:  # the cache is being changed
        return
    if missing > free:
        raise StartFailed(
            f"The weights of {start.spec.model} need {missing / GIB:.1f} GiB more on the disk of {folder.parents[1].parent}, "
            f"which has {free / GIB:.1f} GiB free",
            "Free some space, or choose another disk: --download-dir FOLDER. --force starts the server all the same",
        )
