"""The stages of a start, read from the log lines of vLLM 0.32; beside each pattern is the vLLM file that logs the line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.engine.models.download import Download


class Stage(str, Enum):
    """A stage of a start; the value is its name for a person."""

    QUEUED = "waiting for the GPU"
    IMPORTING = "importing vLLM"
    CONFIGURING = "reading the model's configuration"
    ENGINE = "starting the engine"
    LOADING = "loading weights"
    COMPILING = "compiling"
    MEMORY = "measuring memory"
    WARMING = "warming up"
    GRAPHS = "capturing CUDA graphs"
    SERVING = "starting the HTTP server"
    READY = "ready"


ORDER = tuple(Stage)


@dataclass(frozen=True)
class Progress:
    """The progress of a start.

    Attributes:
        stage: the stage.
        counted: how many steps of the stage are done, and of how many, such as (3, 8); None if vLLM does not count.
        download: the download for which the stage waits, if there is one.
        waits_for: what else the start waits for; "" if its log grows, or if that is not known.
    """

    stage: Stage
    counted: tuple[int, int] | None = None
    download: Download | None = None
    waits_for: str = ""


_SIGNS: tuple[tuple[Stage, re.Pattern[str]], ...] = tuple(
    (stage, re.compile(pattern))
    for stage, pattern in (
        (
            Stage.IMPORTING,
            r"^The job runs on ",
        ),  # logged by vllm_magic's cluster/agent.py when the job has a node
        (
            Stage.CONFIGURING,
            r"vLLM server version|version \d+\.\d+\.\d+|non-default args:|Resolved architecture:",
        ),
        (Stage.ENGINE, r"Initializing a V1 LLM engine|world_size=\d+ rank=\d+"),  # v1/engine/core.py
        # v1/worker/*_model_runner.py; Model Runner V2 (v1/worker/gpu/model_runner.py)
        (Stage.LOADING, r"Starting to load model|Loading model from scratch\.\.\."),
        # model_executor/model_loader/weight_utils.py
        (Stage.LOADING, r"[Ll]oading .{0,200}?% Completed \| (?P<done>\d+)/(?P<all>\d+) \["),
        # compilation/
        (Stage.COMPILING, r"Starting torch\.compile|Dynamo bytecode transform|Compiling a graph"),
        # v1/worker/gpu_worker.py, v1/core/kv_cache_utils.py
        (Stage.MEMORY, r"Available KV cache memory|KV cache size:"),
        # model_executor/warmup/
        (Stage.WARMING, r"Warming up|JIT kernel warmup (?:starting|\(\d)"),
        # v1/worker/gpu_model_runner.py
        (Stage.GRAPHS, r"Capturing CUDA graphs.{0,200}?\| (?P<done>\d+)/(?P<all>\d+) "),
        (
            Stage.SERVING,
            # entrypoints, launchers/api_server/entry.py; with its number up to vLLM 0.15
            r"Supported tasks:|Starting vLLM (?:API )?server (?:\d{1,9} )?on",
        ),
    )
)


def read(line: str) -> Progress | None:
    """Return the progress that a log line reports, or None."""
    for stage, pattern in _SIGNS:
        match = pattern.search(line)
        if match:
            counts = match.groupdict()
            counted = (int(counts["done"]), int(counts["all"])) if counts.get("all") else None
            return Progress(stage, counted)
    return None


def later(first: Progress, second: Progress) -> Progress:
    """Return the progress with the later stage; the second if both have the same. Several workers log at the same time."""
    return second if ORDER.index(second.stage) >= ORDER.index(first.stage) else first
