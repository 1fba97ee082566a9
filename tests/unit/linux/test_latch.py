"""A flag that is set once: by any thread, and also where a signal handler interrupts a wait."""

from __future__ import annotations

import math
import signal
import threading

import pytest

from vllm_magic.linux.latch import Latch

LIMIT = 30.0  # seconds for what takes none


def test_it_is_set_once_and_for_good():
    latch = Latch()
    assert not latch.is_set()
    assert not latch.wait(0.0)
    latch.set()
    latch.set()
    assert latch.is_set()
    assert latch.wait(0.0)
    assert latch.wait(math.inf)


def test_all_that_wait_are_woken():
    latch, woken = Latch(), []
    waiting = [threading.Thread(target=lambda: woken.append(latch.wait(LIMIT))) for _ in range(5)]
    for one in waiting:
        one.start()
    latch.set()
    for one in waiting:
        one.join(LIMIT)
    assert woken == [True] * 5


@pytest.mark.timeout(60, method="thread")
def test_a_handler_that_raises_ends_a_wait_and_wakes_nobody_less():
    latch, main = Latch(), threading.get_ident()

    def raising(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raising)
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            latch.wait(math.inf)
    finally:
        timer.join(LIMIT)
        signal.signal(signal.SIGUSR1, before)
    assert not latch.is_set()
    latch.set()
    assert latch.wait(LIMIT)
