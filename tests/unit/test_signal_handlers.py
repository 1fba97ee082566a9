"""A program's own signal handler may use this package in the middle of any call, and waits for threads which use it too."""

from __future__ import annotations

import subprocess
import threading

import each_line
import pytest

from vllm_magic import masking
from vllm_magic.engine import free_port
from vllm_magic.linux import forks, lookups
from vllm_magic.linux.eventfd import Cancellation
from vllm_magic.masking import mask
from vllm_magic.plotting.timeseries import Curve, Sample

# Which ends a wait of the main thread for itself.
pytestmark = pytest.mark.timeout(30, method="signal")


def test_keys_are_masked():
    def remember() -> None:
        masking.remember("some-key-of-a-handler")
        assert mask("some-key-of-a-handler") == "***"

    assert each_line.run(remember, remember) > 1


def test_names_are_looked_up():
    def look() -> None:
        assert lookups.within(20.0, "a name", lambda: 5) == 5

    assert each_line.run(look, look) > 1
    assert lookups._pending == {}


def test_free_ports_are_chosen():
    given: list[int] = []

    def choose() -> None:
        given.append(free_port.choose("127.0.0.1"))

    assert each_line.run(choose, choose) > 1
    assert len(set(given)) == len(given)


def test_a_start_is_given_up():
    cancelled = Cancellation()
    assert not cancelled.event.wait(0.0)

    def give_up() -> None:
        cancelled.event.set()
        assert cancelled.event.wait(20.0)
        assert cancelled.event.is_set()

    assert each_line.run(give_up, give_up, each_line.PACKAGE, threading.__file__) > 1


def test_curves_are_read():
    curve = Curve()

    def add() -> None:
        curve.add(Sample(1.0, running=1))

    def read() -> None:
        assert {one.running for one in curve.samples()} == {1}
        assert (curve.baseline, curve.gpus) == ((), ())

    add()
    assert each_line.run(read, lambda: (add_elsewhere(add), read())) > 1


def add_elsewhere(add) -> None:
    """As the threads do that follow servers."""
    thread = threading.Thread(target=add, daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive(), "it cannot add a sample while one is read"


@pytest.fixture
def started(monkeypatch) -> list[object]:
    """The programs that were started, none of which runs."""
    programs: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: programs.append(words))
    monkeypatch.setattr(forks, "PATIENCE", 0.2)
    return programs


def test_programs_are_started(started):
    def start() -> None:
        forks.spawn(["true"])

    interrupted = each_line.run(start, start)
    assert interrupted > 1
    assert len(started) == 2 * interrupted + 1
    assert not forks._starts


def test_programs_are_started_in_the_middle_of_a_fork(started):
    def start() -> None:
        forks.spawn(["true"])

    def fork() -> None:
        forks._before()
        forks._in_parent()

    interrupted = each_line.run(fork, start)
    assert len(started) == 2 * interrupted
    assert forks._gate.acquire(blocking=False)
    forks._gate.release()
