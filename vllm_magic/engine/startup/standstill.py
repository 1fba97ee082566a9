"""The reason why a start stands still: what it waits for, by its log and the locks of the Hugging Face cache."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.linux import file_locks

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

# Lines of the log after which NCCL connects the GPUs (vllm/distributed/parallel_state.py, and device_communicators/pynccl.py).
_NCCL_LINE = re.compile(r"vLLM is using nccl==|distributed_init_method=\S{1,200} backend=nccl")
NCCL = "NCCL, which connects the GPUs: --env NCCL_DEBUG=INFO shows more"


def reason(lines: Sequence[str], locks: Path | None, own: Collection[int]) -> str:
    """Return what a start waits for; "" if that is not known. Arguments as for `by_log` and `by_lock`."""
    return by_log(lines) or by_lock(locks, own)


def by_log(lines: Sequence[str]) -> str:
    """Return what a start waits for, by the last lines of its log; "" if they do not show it."""
    return NCCL if lines and _NCCL_LINE.search(lines[-1]) else ""


def by_lock(locks: Path | None, own: Collection[int]) -> str:
    """Return the lock of the Hugging Face cache for which the download of a model waits; "" if no other process holds one.

    Args:
        locks: the folder of the model's locks, see `Downloads.locks`; None for a model that is not downloaded.
        own: the pids of the server's processes. Their own locks do not count.
    """
    with suppress(OSError):
        for path in sorted(locks.glob("*.lock")) if locks else ():
            pid = file_locks.holder(path)
            if pid is not None and pid not in own:
                return f"a lock of the Hugging Face cache that process {pid} holds ({path})"
    return ""
