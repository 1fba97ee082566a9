"""Playing many stages, side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import stage

Result = list[dict[str, Any]]
OURS = "vllm_magic"


class Stages:
    """Starts stages in the order in which they are asked for: one of vllm_magic's, and one of the others beside it.

    One stage has some 45 servers, which keep a small machine busy.

    Args:
        folder: for their results.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ours = ThreadPoolExecutor(1)
        self._others = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._futures: dict[tuple[str, str], Future[Result]] = {}

    def ask(self, death: str, method: str) -> None:
        """Have it played when it is its turn."""
        pool = self._ours if method == OURS else self._others
        self._futures[death, method] = pool.submit(self._play, death, method)

    def result(self, death: str, method: str) -> Result:
        """The judgement of each cell, once it is there.

        Raises:
            RuntimeError: the stage failed; its output is told.
        """
        return self._futures[death, method].result()

    def finished(self) -> Result:
        """All that is there."""
        over = [future for future in self._futures.values() if future.done() and not future.cancelled()]
        return [row for future in over if not future.exception() for row in future.result()]

    def close(self) -> None:
        """End the stages that run, each of which clears what it started, and start no more."""
        for pool in (self._ours, self._others):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for process in self._running:
                process.terminate()
        for pool in (self._ours, self._others):
            pool.shutdown()

    def _play(self, death: str, method: str) -> Result:
        result = self._folder / f"{death}-{method}.json"
        command = [sys.executable, "-W", "error", "-m", "matrix.stage", death, method, str(result)]
        path = os.pathsep.join([str(stage.TESTS), str(stage.TESTS.parent)])
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with self._lock:
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=stage.LIFE + 120)
        finally:
            process.kill()
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            raise RuntimeError(f"The stage of {death} with {method} failed:\n{output}")
        rows: Result = json.loads(result.read_text())
        return rows
