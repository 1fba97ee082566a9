"""How the costs grow with the number of servers in one kernel."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench import guards, usage
from bench.fleet import bare_seconds, fleet, stand_ins

if TYPE_CHECKING:
    from bench.target import Target

COUNTS = (1, 10, 50)  # servers
CALM = 5.0  # seconds after which nothing changes any more
WATCHED = 20.0  # seconds


class Cost(NamedTuple):
    """What so many servers cost. Times in seconds, memory in bytes.

    Attributes:
        servers: how many.
        start: until all were ready.
        bare_start: the same for the bare command.
        status: `%vllm status`, each time.
        threads: of the kernel, more than before the first server.
        memory: of the kernel, which it shares with no other process, more than before the first server.
        sampler: share of a core that the looks at servers and GPUs take, in the kernel and in the probe.
        stop: of all of them.
        bare_stop: the same for the bare command.
    """

    servers: int
    start: float
    bare_start: float
    status: tuple[float, ...]
    threads: int
    memory: int
    sampler: float
    stop: float
    bare_stop: float


def measure(target: Target) -> list[Cost]:
    """The costs of each of `COUNTS`."""
    several = stand_ins(target)
    return [_measure(several, count) for count in COUNTS]


def _measure(target: Target, count: int) -> Cost:
    bare_start, bare_stop = bare_seconds(target, count)
    with fleet(target) as kernel:
        kernel.run("manager.gpus()")  # what looks at the GPUs is there from the first look on
        time.sleep(CALM)
        threads, memory = usage.threads(kernel.pid), guards.private_bytes((kernel.pid,))
        pids = kernel.pids
        idle, _ = usage.share(pids, lambda: time.sleep(CALM))
        start = kernel.start(count)
        time.sleep(CALM)
        busy, _ = usage.share(pids, lambda: time.sleep(WATCHED))
        threads = usage.threads(kernel.pid) - threads
        memory = guards.private_bytes((kernel.pid,)) - memory
        status = kernel.status()
        stop = kernel.stop_all()
    cost = Cost(
        count, start, bare_start, tuple(status), threads, memory, max(0.0, busy - idle), stop, bare_stop
    )
    _say(cost)
    return cost


def _say(cost: Cost) -> None:
    print(
        f"{cost.servers} servers: ready in {cost.start:.1f} s (bare {cost.bare_start:.1f} s), "
        f"status {1000 * median(cost.status):.1f} ms, {cost.threads} threads, {cost.memory / 1e6:.1f} MB, "
        f"sampler {100 * cost.sampler:.2f} % of a core, stop {cost.stop:.2f} s (bare {cost.bare_stop:.2f} s)",
        flush=True,
    )
