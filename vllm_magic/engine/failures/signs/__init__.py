"""Known failures in vLLM's log, by family.

If a log has several signs, the first in `SIGNS` counts. The order is that of the families here, and within a family that of
its file. The general signs come last.
"""

from __future__ import annotations

from vllm_magic.engine.failures.signs import (
    command_line,
    compilers,
    driver,
    engine,
    gpu,
    gpu_memory,
    hub,
    machine,
    model_files,
    packages,
    parallel,
    settings,
)

_BY_FAMILY = (
    *machine.SIGNS,
    *driver.SIGNS,
    *parallel.SIGNS,
    *gpu.SIGNS,
    *gpu_memory.SIGNS,
    *compilers.SIGNS,
    *packages.SIGNS,
    *settings.SIGNS,
    *model_files.SIGNS,
    *hub.SIGNS,
    *command_line.SIGNS,
    *engine.SIGNS,
)
SIGNS = tuple(sorted(_BY_FAMILY, key=lambda sign: sign.general))
