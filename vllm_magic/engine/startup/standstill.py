"""What a start waits for whose log does not grow, as far as the log and the locks of the Hugging Face cache show it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.linux import file_locks

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

# vllm/distributed/parallel_state.py, and device_communicators/pynccl.py
_CONNECTS = re.compile(r"vLLM is using nccl==|distributed_init_method=\S{1,200} backend=nccl")
NCCL = "NCCL, which connects its GPUs: --env NCCL_DEBUG=INFO shows more"


def by_log(lines: Sequence[str]) -> str:
    """Return what a start waits for whose log ends with these lines; "" if they do not say it."""
    return NCCL if lines and _CONNECTS.search(lines[-1]) else ""


def by_lock(locks: Path | None, own: Collection[int]) -> str:
    """Return the lock in the Hugging Face cache for which the download of a model waits; "" if there is none.

    Args:
        locks: the folder of the model's locks, see `Downloads.locks`; None for a model that is not downloaded.
        own: the pids of the server's processes, whose locks are no obstacle.
    """
    with suppress(OSError):
        for path in sorted(locks.glob("*.lock")) if locks else ():
            pid = file_locks.holder(path)
            if pid is not None and pid not in own:
                return f"a lock of the Hugging Face cache that process {pid} holds ({path})"
    return ""
