"""Known failures in vLLM's log, by family: special ones first, then those of `patterns`, which are more general."""

from __future__ import annotations

from vllm_magic.engine.failures import patterns
from vllm_magic.engine.failures.signs import (
    compilers,
    driver,
    gpu,
    hub,
    machine,
    model_files,
    packages,
    parallel,
    settings,
)

SIGNS = (
    *machine.SIGNS,
    *driver.SIGNS,
    *parallel.SIGNS,
    *gpu.SIGNS,
    *compilers.SIGNS,
    *packages.SIGNS,
    *settings.SIGNS,
    *model_files.SIGNS,
    *hub.SIGNS,
    *patterns.SIGNS,
)
