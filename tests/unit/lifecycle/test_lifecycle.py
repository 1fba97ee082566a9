"""The status of a server behind its lock: waited for, changed by one thread at a time, told once."""

from __future__ import annotations

import signal
import threading

import pytest

from vllm_magic.engine.startup.estimate import Pace
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.errors import StartFailed
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle.events import Ending, NeverStarted, Over, ProgressChanged, Ready
from vllm_magic.lifecycle.lifecycle import Lifecycle
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.release.result import nothing_to_release

LIMIT = 30.0  # seconds for what takes none
RELEASED = Over(nothing_to_release("m"), Why.ASKED)


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle("m", Pace({}))


def test_a_whole_life(lifecycle):
    seen = [lifecycle.now.state]
    for notice in (ProgressChanged(Progress(Stage.LOADING)), Ready(), Ending(Why.ASKED), RELEASED):
        lifecycle.take(notice)
        seen.append(lifecycle.now.state)
    assert seen == ["starting", "starting", "ready", "stopping", "released"]
    assert list(lifecycle.now.times) == ["starting", "ready", "stopping", "released"]
    assert lifecycle.now.ready_after <= lifecycle.seconds


def test_what_was_read_before_does_not_change(lifecycle):
    before = lifecycle.now
    lifecycle.take(Ready())
    assert (before.state, lifecycle.now.state) == ("starting", "ready")


def test_a_wait_ends_with_the_change(lifecycle):
    ends = []
    waiting = threading.Thread(
        target=lambda: ends.append(lifecycle.wait_for(lambda now: now.state.over, LIMIT))
    )
    waiting.start()
    lifecycle.take(RELEASED)
    waiting.join(LIMIT)
    assert ends == [True]


@pytest.mark.parametrize("timeout", [0.0, 0.01])
def test_a_wait_ends_with_its_time(lifecycle, timeout):
    assert not lifecycle.wait_for(lambda now: now.state.over, timeout)


def test_a_wait_for_what_is_so_already_takes_any_timeout(lifecycle):
    for timeout in (None, float("inf"), 0.0):
        assert lifecycle.wait_for(lambda now: now.state is ServerState.STARTING, timeout)


def test_a_failure_is_told_once(lifecycle):
    error = StartFailed("The model is gated", "Set HF_TOKEN")
    assert lifecycle.report_error() is None
    lifecycle.take(NeverStarted(error))
    assert [lifecycle.report_error(), lifecycle.report_error()] == [error, None]
    assert lifecycle.now.error is error


def test_only_one_thread_reopens_it(lifecycle):
    assert not lifecycle.reopen()  # its end is still to come
    lifecycle.take(RELEASED)
    assert [lifecycle.reopen(), lifecycle.reopen()] == [True, False]
    assert lifecycle.now.state == "stopping"
    lifecycle.give_up()
    assert lifecycle.now.state == "failed"


def test_a_stop_that_comes_too_late(lifecycle):
    lifecycle.take(RELEASED)
    lifecycle.request_stop()
    assert lifecycle.now.state == "released"


def test_the_time_of_each_stage(lifecycle):
    lifecycle.take(ProgressChanged(Progress(Stage.IMPORTING)))
    lifecycle.take(ProgressChanged(Progress(Stage.LOADING)))
    assert Stage.IMPORTING in lifecycle.stages()
    share = lifecycle.estimate().share
    lifecycle.set_pace(Pace({Stage.IMPORTING: 9.0, Stage.LOADING: 1.0}))
    assert lifecycle.estimate().share >= 0.9 > share


@pytest.mark.timeout(60, method="thread")
def test_interrupts_end_a_wait_while_another_thread_changes_the_status(lifecycle):
    """`threading.Condition.wait` takes its lock back first; interrupted in that, it is a RuntimeError."""
    main, done = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        done.wait(0.2)  # by then the main thread waits
        with lifecycle._lock:
            while not done.wait(0.02):
                signal.pthread_kill(main, signal.SIGUSR1)

    def raising(*_) -> None:
        if not done.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raising)
    other = threading.Thread(target=interrupt)
    try:
        other.start()
        with pytest.raises(KeyboardInterrupt):
            lifecycle.wait_for(lambda now: now.state.over)
        done.set()
    finally:
        done.set()
        other.join(LIMIT)
        signal.signal(signal.SIGUSR1, before)
