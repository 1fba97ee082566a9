"""What an open panel keeps: as much after half an hour as before. What it takes of time and traffic is in bench/panel.py."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.jupyter.commands.settings import Settings
from vllm_magic.jupyter.panel.background_work import Work
from vllm_magic.jupyter.panel.controller import PROCESSES, Controller
from vllm_magic.jupyter.panel.messages import Request, RequestKind
from vllm_magic.manager.manager import Manager
from vllm_magic.monitoring import poller
from vllm_magic.plotting import timeseries

if TYPE_CHECKING:
    from vllm_magic.engine.spec import ServerSpec

LIMIT = 60.0  # seconds for a look, which takes milliseconds
HALF_AN_HOUR = 1800  # looks
WARM = 200  # looks after which everything that is kept is there
REST = 0.2  # seconds
SETTLED = 20  # looks; what is held at each of them counts, since one that is under way holds some
SHORT = 20  # samples of a curve here, so that what else grows stands out
# Threads that are started when all others are busy, by a part of their names: of the sampler, and for files in /proc.
POOLS = ("vllm-magic sampler: servers", "vllm-magic /proc")
GROWTH = 50_000  # bytes; an object with fields for each look would be twice that


class Forgetful:
    """Tells of each tick, and keeps nothing."""

    def __init__(self) -> None:
        self.ticks = threading.Semaphore(0)

    def set_view_state(self, state: dict) -> None:
        pass

    def send(self, message: dict) -> None:
        if message["kind"] == "tick":
            self.ticks.release()


class Kept(NamedTuple):
    """What this process holds; `pooled` counts the threads of `POOLS`."""

    size: int
    descriptors: frozenset[str]
    threads: frozenset[str]
    pooled: int


class Result(NamedTuple):
    """What was held before half an hour, and after it, and how many samples a curve has then."""

    before: Kept
    after: Kept
    samples: int


def test_half_an_hour_leaves_nothing(home, spec):
    """In a process of its own: what other tests have left in this one comes and goes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        before, after, samples = process.submit(half_an_hour, spec()).result()
    assert after.size < before.size + GROWTH
    assert len(after.descriptors) <= len(before.descriptors), (before.descriptors, after.descriptors)
    assert len(after.threads) <= len(before.threads), (before.threads, after.threads)
    assert after.pooled <= 2 * poller.PER_ROUND
    assert samples <= SHORT


def half_an_hour(spec: ServerSpec) -> Result:
    """The controller looks without a pause, and so does the sampler."""
    poller.PERIOD = 0.0
    timeseries.MOST_SAMPLES = SHORT
    manager = Manager()
    try:
        server = manager.start(spec).server
        views = Forgetful()
        controller = Controller(manager, views, Work(manager, Settings, lambda: None), lambda: False)
        controller.post(Request(RequestKind.HELLO, "view", tab=PROCESSES))
        tracemalloc.start()
        watch(manager, controller, views, WARM)
        before = kept(manager, controller, views)
        watch(manager, controller, views, HALF_AN_HOUR)
        after = kept(manager, controller, views)
        tracemalloc.stop()
        controller.close()
        return Result(before, after, len(server._run.curve.samples()))
    finally:
        manager.stop_all(grace=0.0)
        manager.close()


def watch(manager: Manager, controller: Controller, views: Forgetful, looks: int) -> None:
    """Be a view for so many looks; those that the sampler asks for on a busy machine are too few."""
    for _ in range(looks):
        controller.post(Request(RequestKind.HEARTBEAT, "view", tab=PROCESSES))
        manager._sampler._call_watchers()
        assert views.ticks.acquire(timeout=LIMIT)


def kept(manager: Manager, controller: Controller, views: Forgetful) -> Kept:
    """What is there at each of some looks, between which the sampler rests: its scan of all processes takes memory."""
    poller.PERIOD = REST
    sizes, descriptors, threads, pooled = [], [], [], []
    for _ in range(SETTLED):
        watch(manager, controller, views, 1)
        time.sleep(REST / 4)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
        descriptors.append(open_files())
        living = {f"{thread.native_id} {thread.name}" for thread in threading.enumerate()}
        of_pools = {name for name in living if any(pool in name for pool in POOLS)}
        threads.append(frozenset(living - of_pools))
        pooled.append(len(of_pools))
    poller.PERIOD = 0.0
    return Kept(
        min(sizes), frozenset.intersection(*descriptors), frozenset.intersection(*threads), max(pooled)
    )


def open_files() -> frozenset[str]:
    """Each descriptor, and what it is of."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, as that of this listing is
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return frozenset(found)
