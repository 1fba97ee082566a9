"""How far the stage that a start shows is behind vLLM's log."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.kernel import LIMIT, kernel
from vllm_magic.engine.startup import stages
from vllm_magic.engine.startup.stages import ORDER

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

    from bench.target import Target

SLOW = {
    "import_s": 0.61,
    "config_s": 0.73,
    "init_s": 0.67,
    "load_s": 1.03,
    "warmup_s": 0.59,
}  # of the stand-in
_LINE = re.compile(r"\([^)]*\) [A-Z]+ (?P<written>\d+\.\d+) \[")


def stage_lags(target: Target, times: int) -> list[float]:
    """Return, for each stage of so many starts, the seconds from the line that begins it to its sight.

    That is when the front end has received it, or a later one: a stage that is shorter than the time between two
    looks is not shown.

    Args:
        target: a stand-in that writes the time of each line into its log, see `Options.log_epoch`.
        times: how many starts.
    """
    lags: list[float] = []
    with kernel(target) as client:
        for _ in range(times):
            shown = _shown(_run(client, f"server = %vllm start {target.model}"))
            said = "".join(one.get("text", "") for _, one in _run(client, "print(server.log_path)"))
            written = _written(Path(said.strip()).read_text(errors="replace"))
            _run(client, "%vllm stop")
            lags += [
                min(when for place, when in shown if place >= begun) - moment
                for begun, moment in written.items()
            ]
    return lags


def _written(log: str) -> dict[int, float]:
    """When the first line of each stage was written, by its place in the order."""
    written: dict[int, float] = {}
    for line in log.splitlines():
        found, progress = _LINE.match(line), stages.read(line)
        if found and progress and ORDER.index(progress.stage) > max(written, default=-1):
            written[ORDER.index(progress.stage)] = float(found["written"])
    return written


def _shown(seen: list[tuple[float, dict[str, Any]]]) -> list[tuple[int, float]]:
    """Which stage could be seen from when on."""
    return [
        (place, when)
        for when, content in seen
        for place, stage in enumerate(ORDER)
        if re.search(rf": {stage.value}\b| is {stage.value}\b", content.get("data", {}).get("text/plain", ""))
    ]


def _run(client: BlockingKernelClient, source: str) -> list[tuple[float, dict[str, Any]]]:
    """What the cell puts out, and when.

    Raises:
        RuntimeError: it failed.
    """
    seen: list[tuple[float, dict[str, Any]]] = []
    reply = client.execute_interactive(
        source, timeout=LIMIT, output_hook=lambda message: seen.append((time.time(), message["content"]))
    )
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))
    return seen
