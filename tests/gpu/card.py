"""What nvidia-smi says of the GPU: a second opinion, beside the product's own probe."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
LOOK = 0.05  # seconds
LIMIT = 60.0


def used() -> int:
    """Bytes that are used on the first GPU."""
    return _query("memory.used")


def total() -> int:
    """Bytes of the first GPU."""
    return _query("memory.total")


def _query(field: str) -> int:
    words = ["nvidia-smi", "--id=0", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return MIB * int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def seconds_until(condition: Callable[[], bool], limit: float = LIMIT) -> float:
    """Seconds until it holds.

    Raises:
        AssertionError: it does not within the limit.
    """
    began, pause = time.monotonic(), threading.Event()
    while not condition():
        assert time.monotonic() < began + limit
        pause.wait(LOOK)
    return time.monotonic() - began
