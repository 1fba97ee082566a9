"""Many servers in one kernel, on fake GPUs: the tests' stand-ins for vLLM, as light as they can be."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.cells import printed
from bench.kernel import kernel
from bench.raw import RawServer, stop_all
from bench.target import free_ports
from tests import stand_in
from tests.fake_gpu import fakegpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.blocking.client import BlockingKernelClient

    from bench.target import Target

GPUS = 8
MEMORY = 80  # GiB of each
TEAR_DOWN = (
    2.0  # seconds that a stand-in takes to end: on two cores the ends of 50 Pythons take some themselves
)
CELL = 300.0  # seconds for a cell
LOOKS = 20
SHARE = "0.01"  # of a GPU, for each server

SETUP = f"""
import os, time, vllm_magic
from vllm_magic.manager.manager import manager

def timed(what):
    began = time.perf_counter()
    what()
    return time.perf_counter() - began

def start(count):
    several = [
        vllm_magic.start("tiny", "--gpu-memory-utilization", "{SHARE}", name=f"tiny{{n}}", gpus=str(n % {GPUS}), wait=False)
        for n in range(count)
    ]
    for one in several:
        one.wait({CELL:g})

def show(line):
    shell = get_ipython()
    shell.display_formatter.format(shell.run_line_magic("vllm", line))

print(os.getpid())
"""


def stand_ins(target: Target) -> Target:
    """A target with the stand-in, and a fake driver with eight GPUs that answers about as fast as a real one."""
    folder = target.folder / "fleet"
    driver = fakegpu.env(fakegpu.build(folder / "gpu", gpus=GPUS, total_mib=1024 * MEMORY, owners_only=1))
    changed = {name: value for name, value in driver.items() if os.environ.get(name) != value}
    options = stand_in.options(vram=2**28, vram_teardown_s=0.001, exit_delay_s=TEAR_DOWN)
    executable = str(stand_in.install(folder))
    return replace(target, executable=executable, model="tiny", flags=(), env={**changed, **options})


class Fleet:
    """The servers of one kernel, by cells in it; times in seconds.

    Attributes:
        pid: the kernel's.
    """

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self.pid = int(printed(client, SETUP))

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the kernel, and of the process that asks the driver for it."""
        probe = self.say("manager.probe.pid or ''")
        return (self.pid, int(probe)) if probe else (self.pid,)

    def start(self, count: int) -> float:
        """Start so many side by side; how long that took until all were ready."""
        return self.run(f"start({count})")

    def status(self) -> list[float]:
        """How long `%vllm status` takes with all that it shows, each time."""
        return [self.run("show('status')") for _ in range(LOOKS)]

    def stop(self, name: str) -> float:
        """Stop one."""
        return self.run(f"vllm_magic.stop({name!r})")

    def stop_all(self) -> float:
        """Stop all side by side."""
        return self.run("show('stop --all')")

    def run(self, call: str) -> float:
        """How long this call takes in the kernel."""
        return float(self.say(f"timed(lambda: {call})"))

    def say(self, expression: str) -> str:
        """What this is in the kernel, as text."""
        return printed(self._client, f"print({expression})", CELL).strip()

    def do(self, source: str) -> None:
        """Run a cell."""
        printed(self._client, source, CELL)


@contextmanager
def fleet(target: Target) -> Iterator[Fleet]:
    """A kernel without servers so far; those that it has at the end are stopped."""
    with kernel(target) as client:
        one = Fleet(client)
        try:
            yield one
        finally:
            one.stop_all()


def bare_seconds(target: Target, count: int) -> tuple[float, float]:
    """Start and stop so many bare stand-ins side by side; how long each took."""
    with ExitStack() as stack:
        began = time.monotonic()
        servers = [RawServer(target, port) for port in free_ports(count)]
        for server in servers:
            stack.enter_context(server)
        for server in servers:
            server.wait_until_ready()
        started = time.monotonic() - began
        return started, stop_all(servers)
