"""Completion of `%vllm` lines in a kernel, as JupyterLab asks for it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jupyter_client.manager import KernelManager

from bench.load import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.blocking.client import BlockingKernelClient

    from bench.target import Target

LIMIT = 120.0  # seconds for a kernel to start, and for vLLM's flags to be read
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
    with _kernel(target) as client:
        deadline = time.monotonic() + LIMIT
        while len(_complete(client, FLAGS)) < 300:  # the built-in ones are 60
            if time.monotonic() > deadline:
                raise RuntimeError("the flags of vLLM were not read")
            time.sleep(0.5)
    first, later = [], []
    for _ in range(times):
        with _kernel(target) as client:
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


@contextmanager
def _kernel(target: Target) -> Iterator[BlockingKernelClient]:
    """A kernel with the extension loaded."""
    env = {
        **environment(target.folder),
        "VLLM_MAGIC_EXECUTABLE": target.executable,
        "XDG_CACHE_HOME": str(target.folder / "cache"),
    }
    manager = KernelManager(kernel_name="python3", transport_encryption="auto")
    manager.start_kernel(env=env)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        client.execute_interactive("%load_ext vllm_magic", timeout=LIMIT)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
