"""A kernel with the extension loaded, as JupyterLab has one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.load import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.blocking.client import BlockingKernelClient

    from bench.target import Target

LIMIT = 120.0  # seconds for a kernel to start, for one cell, and for vLLM's flags to be read


@contextmanager
def kernel(target: Target) -> Iterator[BlockingKernelClient]:
    """A kernel in which this vLLM is the one to run."""
    from jupyter_client.manager import KernelManager

    env = {
        **environment(target.folder),
        **target.env,
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
