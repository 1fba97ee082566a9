"""Failures of an engine that is not ready in time, or that ends."""

from __future__ import annotations

from vllm_magic.engine.failures import hints
from vllm_magic.engine.failures.signs.sign import Sign

SIGNS = (
    Sign(  # vllm/v1/engine/core_client.py
        r"Timed out waiting for engine core processes to start\..{0,500}?Waited (\d{1,9})s",
        "The engine was not ready after {0} s",
        hints.more_time,
        general=True,
    ),
    Sign(  # the same up to vLLM 0.17
        r"Timed out waiting for engines to send ?initial message on input socket",
        "The engine was not ready in time",
        "Give it more time: --env VLLM_ENGINE_READY_TIMEOUT_S=1200",
        general=True,
    ),
)

# How a process ended. An error that was logged before says more, and errors that follow from the end say less.
EXITED = (
    Sign(  # vllm/v1/executor/multiproc_executor.py
        r"Worker proc (\S+) died unexpectedly \(exit code: (-?\d{1,9}|None)\)",
        hints.process_died,
        hints.process_hint,
    ),
    # The same up to vLLM 0.24, and vllm/v1/executor/ray_executor_v2.py. As the first line of a death, it is the cause.
    Sign(
        r"\A(?:Worker proc (?=\w)|RayWorkerProc (?=rank))(\S+) died unexpectedly, ",
        "The worker {0} ended, and vLLM does not say why",
        hints.engine_died_hint,
    ),
    Sign(  # vllm/v1/utils.py, where there are several API servers
        r"Process (\S+) \(PID: \d+\) died with exit code (-?\d{1,9}|None)",
        hints.process_died,
        hints.process_hint,
    ),
)

# The last resort for an engine that died without a known sign: vllm/v1/engine/exceptions.py, vllm/v1/utils.py.
ENGINE_DIED = Sign(
    r"EngineDeadError: EngineCore encountered an issue|Engine core proc(?:ess)? \S+ died unexpectedly|"
    r"Engine core initialization failed\. See root cause above",
    hints.engine_died,
    hints.engine_died_hint,
)
