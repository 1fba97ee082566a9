"""What a start waits for whose log does not grow, as far as the log and the locks of the Hugging Face cache show it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.engine.models import hf_cache
from vllm_magic.engine.models.model_files import folder_name
from vllm_magic.linux import file_locks

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from vllm_magic.engine.spec import ServerSpec

# vllm/distributed/parallel_state.py, and device_communicators/pynccl.py
_CONNECTS = re.compile(r"vLLM is using nccl==|distributed_init_method=\S{1,200} backend=nccl")
NCCL = "NCCL, which connects its GPUs: --env NCCL_DEBUG=INFO shows more"


def by_log(lines: Sequence[str]) -> str:
    """Return what a start waits for whose log ends with these lines; "" if they do not say it."""
    return NCCL if lines and _CONNECTS.search(lines[-1]) else ""


def by_lock(spec: ServerSpec, environ: Mapping[str, str], own: Collection[int]) -> str:
    """Return the lock in the Hugging Face cache for which a download of this model waits; "" if there is none.

    huggingface_hub locks a file ``.locks/MODEL/HASH.lock`` for each download (file_download.py).

    Args:
        spec: the server.
        environ: the environment of the server.
        own: the pids of the server's processes, whose locks are no obstacle.
    """
    with suppress(OSError):
        folder = hf_cache.folder(spec.all_args, environ) / ".locks" / folder_name(spec.model)
        for path in sorted(folder.glob("*.lock")):
            pid = file_locks.holder(path)
            if pid is not None and pid not in own:
                return f"a lock of the Hugging Face cache that process {pid} holds ({path})"
    return ""
