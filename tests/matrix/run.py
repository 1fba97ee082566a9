"""Playing a stage in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from . import stage

if TYPE_CHECKING:
    from pathlib import Path

Result = list[dict[str, Any]]
OURS = "vllm_magic"


def play(death: str, method: str, cells: str, folder: Path) -> Result:
    """Let a host die; the judgement of each cell.

    Args:
        death: its name.
        method: how the host starts its servers.
        cells: which servers it has, by a name of `cells.CHOICES`.
        folder: for the result.

    Raises:
        RuntimeError: the stage failed; its output is told.
    """
    result = folder / f"{death}-{method}.json"
    command = [sys.executable, "-W", "error", "-m", "matrix.stage", death, method, cells, str(result)]
    path = os.pathsep.join([str(stage.TESTS), str(stage.TESTS.parent)])
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=stage.LIFE + 120)
        except BaseException:
            process.terminate()  # it clears what it has started
            raise
    if process.returncode != 0:
        raise RuntimeError(f"The stage of {death} with {method} failed:\n{output}")
    rows: Result = json.loads(result.read_text())
    return rows
