"""A vLLM plugin for tests and the benchmark: on a CPU too, the engine's processes are forked where that is asked for.

vLLM's CPU platform sets VLLM_WORKER_MULTIPROC_METHOD to "spawn", whatever it was (vllm/platforms/cpu.py); on a GPU
"fork" holds while CUDA is not initialised. So this shows on a CPU what a spare is for.
"""

from __future__ import annotations

import os

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def leave_method() -> None:
    """Have the CPU platform leave the method as it was."""
    from vllm.platforms.cpu import CpuPlatform

    update = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: type, config: object) -> None:
        wanted = os.environ.get(METHOD)
        update(cls, config)
        if wanted:
            os.environ[METHOD] = wanted

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
