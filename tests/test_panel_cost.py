"""What an open panel keeps: as much after half an hour as before. What it takes of time and traffic is in bench/panel.py."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from typing import NamedTuple

from vllm_magic import curve, rounds
from vllm_magic.jupyter.panel.desk import PROCESSES, Desk
from vllm_magic.jupyter.panel.errands import Work
from vllm_magic.jupyter.panel.messages import Ask, Message
from vllm_magic.jupyter.settings import Settings
from vllm_magic.manager import Manager

LIMIT = 60.0  # seconds for a look, which takes milliseconds
HALF_AN_HOUR = 1800  # looks
WARM = 200  # looks after which everything that is kept is there
SETTLED = 20  # looks, of which the least that is held counts: one that is under way holds some
SHORT = 20  # samples of a curve here, so that what else grows stands out
GROWTH = 50_000  # bytes; an object with fields for each look would be twice that


class Forgetful:
    """Tells of each tick, and keeps nothing."""

    def __init__(self) -> None:
        self.ticks = threading.Semaphore(0)

    def show(self, drawn: dict) -> None:
        pass

    def send(self, message: dict) -> None:
        if message["kind"] == "tick":
            self.ticks.release()


class Kept(NamedTuple):
    """What this process holds."""

    size: int
    descriptors: int
    threads: int


def test_half_an_hour_leaves_nothing(manager, spec, monkeypatch):
    """The desk looks without a pause, and so does the sampler."""
    monkeypatch.setattr(rounds, "PERIOD", 0.0)
    monkeypatch.setattr(curve, "MOST", SHORT)
    server = manager.start(spec()).server
    views = Forgetful()
    desk = Desk(manager, views, Work(manager, Settings, lambda: None), lambda: False)
    desk.take(Message(Ask.HELLO, "view", tab=PROCESSES))
    tracemalloc.start()
    try:
        watch(manager, desk, views, WARM)
        before = kept(manager, desk, views)
        watch(manager, desk, views, HALF_AN_HOUR)
        after = kept(manager, desk, views)
    finally:
        tracemalloc.stop()
        desk.close()
    assert after.size < before.size + GROWTH
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads
    assert len(server.curve.samples()) <= SHORT


def watch(manager: Manager, desk: Desk, views: Forgetful, looks: int) -> None:
    """Be a view for so many looks; those that the sampler asks for on a busy machine are too few."""
    for _ in range(looks):
        desk.take(Message(Ask.HERE, "view", tab=PROCESSES))
        manager._sampler.tell()
        assert views.ticks.acquire(timeout=LIMIT)


def kept(manager: Manager, desk: Desk, views: Forgetful) -> Kept:
    """The least of each."""
    found = []
    for _ in range(SETTLED):
        watch(manager, desk, views, 1)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        found.append(Kept(size, len(os.listdir("/proc/self/fd")), len(threading.enumerate())))
    return Kept(*map(min, zip(*found, strict=True)))
