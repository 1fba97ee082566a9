"""Completion of `%vllm` lines in a kernel, as JupyterLab asks for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.kernel import LIMIT, kernel

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

    from bench.target import Target

FLAGS = "%vllm start model --"
LINES = (
    FLAGS,
    "%vllm st",
    "%vllm start ",
    "%vllm start ./",
    "%vllm start model --max",
    "server = %vllm start model --dtype=",
    "%vllm start --gpus ",
    "%vllm stop ",
)


def completion_seconds(target: Target, times: int) -> tuple[list[float], list[float]]:
    """Return how long the first answer of each of so many kernels takes, and how long each later one, in seconds.

    The flags are in the cache: a kernel before them, which is not measured, has had them read.
    """
    with kernel(target) as client:
        deadline = time.monotonic() + LIMIT
        while len(_complete(client, FLAGS)) < 300:  # the built-in ones are 60
            if time.monotonic() > deadline:
                raise RuntimeError("the flags of vLLM were not read")
            time.sleep(0.5)
    first, later = [], []
    for _ in range(times):
        with kernel(target) as client:
            first.append(_time(client, FLAGS))
            later += [_time(client, line) for line in LINES]
    return first, later


def _time(client: BlockingKernelClient, line: str) -> float:
    began = time.perf_counter()
    found = _complete(client, line)
    took = time.perf_counter() - began
    if not found:
        raise RuntimeError(f"nothing completes {line!r}")
    return took


def _complete(client: BlockingKernelClient, line: str) -> list[str]:
    reply = client.complete(line, len(line), reply=True, timeout=LIMIT)
    return list(reply["content"]["matches"])
