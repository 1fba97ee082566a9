"""The thread of a server that never has a process: what it tells at its end, whatever comes in the way."""

from __future__ import annotations

import queue

import pytest

from vllm_magic.errors import StartFailed
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle.events import NeverStarted, News, Over, StopPlan, SupervisorFailed
from vllm_magic.lifecycle.idle_timeout import KEEP_ALIVE
from vllm_magic.lifecycle.supervisor import Supervisor
from vllm_magic.provisioning.base import Provisioner
from vllm_magic.release.result import nothing_to_release

LIMIT = 30.0  # seconds for what takes none
FAULT = "A fault of vllm_magic: RuntimeError: on purpose. Please report it."


class NoServer(Provisioner):
    """Launches nothing: it does what the test wants instead."""

    stop_grace = stop_patience = 0.0
    stops_at_exit = from_the_start = False

    def __init__(self, instead) -> None:
        self._instead = instead

    def launch(self, cancelled, tell):
        return self._instead(cancelled, tell)


class Ear:
    """Hears the notices; the first ``deaf`` of them it answers with a fault."""

    def __init__(self, deaf: int = 0) -> None:
        self._notices = queue.SimpleQueue()
        self._deaf = deaf

    def __call__(self, notice) -> None:
        if self._deaf:
            self._deaf -= 1
            raise RuntimeError("on purpose")
        self._notices.put(notice)

    def next(self):
        return self._notices.get(timeout=LIMIT)


def supervisor(instead, ear: Ear) -> Supervisor:
    return Supervisor("m", NoServer(instead), None, ear, None, KEEP_ALIVE)


def fail(error: Exception):
    def launch(_cancelled, _tell):
        raise error

    return launch


def test_it_cannot_be_started():
    ear, error = Ear(), StartFailed("The model is gated", "Set HF_TOKEN")
    supervisor(fail(error), ear).begin()
    assert ear.next() == NeverStarted(error)


@pytest.mark.parametrize("before", [True, False])
def test_it_is_stopped_before_it_was_launched(before):
    def launch(cancelled, _tell):
        assert cancelled.event.wait(LIMIT)

    ear = Ear()
    made = supervisor(launch, ear)
    if before:
        made.stop(StopPlan(0.0, 0.0))
    made.begin()
    made.stop(StopPlan(0.0, 0.0))
    assert ear.next() == Over(nothing_to_release("m"), Why.ASKED)


def test_a_fault_is_the_last_notice_too():
    ear = Ear()
    supervisor(fail(RuntimeError("on purpose")), ear).begin()
    last = ear.next()
    assert isinstance(last, SupervisorFailed)
    assert str(last.error) == FAULT


def test_what_the_launch_tells_and_a_fault_of_whoever_hears_it():
    def launch(_cancelled, tell):
        tell("one line")
        tell("another")

    ear = Ear(deaf=1)
    supervisor(launch, ear).begin()
    assert [ear.next(), ear.next()] == [News(FAULT), News("another")]
    assert isinstance(ear.next(), Over)
