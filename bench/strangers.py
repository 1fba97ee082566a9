"""How the costs of one server grow with the number of other processes on the machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench.crowd import crowd
from bench.fleet import Fleet, fleet, stand_ins
from tests import stand_in
from vllm_magic import ledger
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from bench.target import Target

COUNTS = (100, 1000, 5000)  # other processes
TIMES = 5
END_LIMIT = 30.0  # seconds for those that are killed to be gone
KERNEL = """
import json, os, sys, vllm_magic
os.environ.update(json.loads(sys.stdin.readline()))
vllm_magic.start("tiny", "--gpu-memory-utilization", "0.01", gpus="0")
print("ready", flush=True)
sys.stdin.readline()
"""


class Cost(NamedTuple):
    """What is asked of one server among so many other processes. Times in seconds, one for each time.

    Attributes:
        others: how many.
        status: `%vllm status`.
        stop: `%vllm stop`.
        sweep: `%vllm reap`, of a server whose kernel and guards were killed.
    """

    others: int
    status: tuple[float, ...]
    stop: tuple[float, ...]
    sweep: tuple[float, ...]


def measure(target: Target) -> list[Cost]:
    """The costs among each of `COUNTS`."""
    several = stand_ins(target)
    return [_measure(replace(several, env={**several.env, **_options()}), count) for count in COUNTS]


def _options() -> dict[str, str]:
    """Of a stand-in that ends as fast as it can: what comes on top is to be seen."""
    return stand_in.options(vram=2**28, vram_teardown_s=0.001)


def _measure(target: Target, others: int) -> Cost:
    status, stop, sweep = [], [], []
    with fleet(target) as kernel:
        for _ in range(TIMES):
            with _among(kernel, target, others):
                status.append(median(kernel.status()))
                stop.append(kernel.stop("tiny0"))
        with crowd(others, target.folder):
            for _ in range(TIMES):
                _leave_orphan(target)
                sweep.append(kernel.run("show('reap')"))
    cost = Cost(others, tuple(status), tuple(stop), tuple(sweep))
    print(
        f"{others} other processes: status {1000 * median(status):.1f} ms, stop {median(stop):.3f} s, "
        f"sweep {median(sweep):.3f} s",
        flush=True,
    )
    return cost


def _among(kernel: Fleet, target: Target, others: int) -> ExitStack:
    """A server that is younger than half of the others, and older than the other half."""
    with ExitStack() as stack:
        stack.enter_context(crowd(others // 2, target.folder))
        kernel.start(1)
        stack.enter_context(crowd(others // 2, target.folder))
        time.sleep(1.0)  # the server and the machine come to rest
        return stack.pop_all()


def _leave_orphan(target: Target) -> None:
    """Have a server whose kernel and guards are killed in the same instant: all are stopped first."""
    env = {**target.env, "VLLM_MAGIC_EXECUTABLE": target.executable}
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as kernel:
        assert kernel.stdin and kernel.stdout  # noqa: PT018 - both are pipes
        kernel.stdin.write(json.dumps(env) + "\n")
        kernel.stdin.flush()
        kernel.stdout.readline()
        mine = [one.record for one in ledger.entries() if one.record and one.record.kernel[0] == kernel.pid]
        (record,) = mine
        assert record.outer and record.inner and record.leader  # noqa: PT018 - it is ready
        victims = [Identity(*record.outer), Identity(*record.inner)]
        if (own := processes.read(kernel.pid)) is not None:
            victims.append(own.identity)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for victim in victims:
                pidfd.send(victim, number)
        pidfd.wait_for_all([*victims, Identity(*record.leader)], END_LIMIT)
