"""A vLLM plugin that lets a real engine hold fake VRAM, as an engine on a GPU holds real VRAM.

vLLM finds it through the hand-written `fake_vram-1.0.dist-info`, once this folder is on PYTHONPATH together
with tests/fake_gpu; nothing is installed in vLLM's environment. `environment.fake_vram_env` sets all of that.

vLLM calls general plugins in all its processes. Here only the engine's processes hold, $FAKE_VRAM_BYTES each:
the engine core on the first visible GPU, and the worker of rank N on the Nth. The children must be spawned
(VLLM_WORKER_MULTIPROC_METHOD=spawn): a forked child inherits "plugins are loaded", and never calls this.
"""

from __future__ import annotations

import multiprocessing
import os
import re

from fakegpu import hold

# As vLLM names its processes: v1/engine/utils.py (EngineCore, EngineCore_DP1), v1/executor/multiproc_executor.py.
ENGINE_PROCESS = re.compile(r"(?:EngineCore|EngineCore_DP|VllmWorker-)(?P<rank>\d*)")


def hold_fake_vram() -> None:
    """Hold until this process is dead, if it is one of the engine's."""
    engine = ENGINE_PROCESS.fullmatch(multiprocessing.current_process().name)
    if engine:
        hold(int(os.environ["FAKE_VRAM_BYTES"]), gpu=_visible_gpu(int(engine["rank"] or 0)))


def _visible_gpu(rank: int) -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return rank
    # An index, or a UUID of the fake driver, which ends in the index.
    return int(visible.split(",")[rank].rpartition("-")[2])
