"""A server's log of 2 GB: its end, what is new in it, and what is left of it on disk."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.fleet import LOOKS, fleet, stand_ins

if TYPE_CHECKING:
    from bench.target import Target

SMALL, LARGE = 2 * 10**6, 2 * 10**9  # bytes
CUT = 2.0  # seconds in which the guard has cut it at last
LINE = b"(EngineCore pid=1) INFO 07-28 12:00:00 [loggers.py:259] Engine 000: Avg prompt throughput: 0.0 tokens/s\n"
FOLLOW = (
    "from vllm_magic.server.server import run_of; follower = run_of(vllm_magic.servers()['tiny0']).follower()"
)


class Cost(NamedTuple):
    """Times in seconds, of a log of `SMALL` and of one of `LARGE` bytes.

    Attributes:
        small: `%vllm logs`, each time.
        large: the same.
        news: to read a line that was added, and nothing else.
        on_disk: bytes that the large one takes.
    """

    small: tuple[float, ...]
    large: tuple[float, ...]
    news: tuple[float, ...]
    on_disk: int


def measure(target: Target) -> Cost:
    """Have a server's log grow, as if the server had written it."""
    with fleet(stand_ins(target)) as kernel:
        kernel.start(1)
        log = Path(kernel.say("vllm_magic.servers()['tiny0'].log_path"))
        _grow(log, SMALL)
        small = [kernel.run("show('logs tiny0')") for _ in range(LOOKS)]
        _grow(log, LARGE)
        time.sleep(CUT)
        large = [kernel.run("show('logs tiny0')") for _ in range(LOOKS)]
        kernel.do(f"{FOLLOW}\nfollower.new_lines()")
        news = []
        for _ in range(LOOKS):
            _grow(log, log.stat().st_size + len(LINE))
            news.append(kernel.run("follower.new_lines()"))
        cost = Cost(tuple(small), tuple(large), tuple(news), log.stat().st_blocks * 512)
    print(
        f"log of 2 GB: %vllm logs {1000 * min(large):.1f} ms (of 2 MB: {1000 * min(small):.1f} ms), a new line "
        f"{1000 * min(news):.2f} ms, {cost.on_disk / 1e6:.0f} MB on disk",
        flush=True,
    )
    return cost


def _grow(log: Path, size: int) -> None:
    block = LINE * 10000
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        while (left := size - os.fstat(fd).st_size) > 0:
            os.write(fd, block if left > len(block) else LINE)
    finally:
        os.close(fd)
