"""The status of a server: what each notice and each request makes of it, in each state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vllm_magic.engine.failures.explanations import Failure
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.errors import ReleaseFailed, ServerFailed, StartFailed, VllmMagicError
from vllm_magic.guard.protocol import Why
from vllm_magic.ledger import Folder
from vllm_magic.lifecycle.events import (
    Ending,
    Idle,
    LeaderStarted,
    NeverStarted,
    News,
    Over,
    ProgressChanged,
    Ready,
    SupervisorFailed,
)
from vllm_magic.lifecycle.status import READY, LifecycleStatus, ServerState
from vllm_magic.linux.processes import Identity
from vllm_magic.provisioning.base import StartKind
from vllm_magic.release.result import EndedProcess, nothing_to_release

STARTING, RUNS, STOPPING, RELEASED, FAILED = (
    ServerState.STARTING,
    ServerState.READY,
    ServerState.STOPPING,
    ServerState.RELEASED,
    ServerState.FAILED,
)
AT = 1e9  # seconds since the epoch
ERROR = VllmMagicError("It is broken.")
PROVED = nothing_to_release("m")
RECHECKABLE = replace(PROVED, verified=False, may_recheck=True, note="the GPUs cannot be read")
LEFT = replace(PROVED, verified=False, left=(EndedProcess(7, 8, "VLLM::EngineCore", "SIGKILL"),))
STARTED = LeaderStarted(
    Folder("1", Path("/s/1"), Path("/s/1/t"), Path("/s/1/log"), Path("/s/logs/1")),
    Identity(7, 8),
    (),
    (),
    StartKind.COLD,
    "no spare was warm",
)


def status(state: ServerState = STARTING, **fields) -> LifecycleStatus:
    ready = {"ready_after": 3.0} if state is not STARTING else {}
    return LifecycleStatus("m", state, times={state: 1.0}, **{**ready, **fields})


def test_it_begins_with_nothing_known():
    fresh = LifecycleStatus("m")
    assert (fresh.state, fresh.progress) == (STARTING, Progress(Stage.QUEUED))
    assert (fresh.folder, fresh.leader, fresh.release, fresh.error) == (None, None, None, None)
    assert not fresh.is_stop_requested
    assert not fresh.is_error_unreported


@pytest.mark.parametrize(
    ("notice", "ends"),
    [
        #                            starting  ready     stopping
        (STARTED,                   (STARTING, RUNS,     STOPPING)),
        (ProgressChanged(Progress(Stage.LOADING)), (STARTING, RUNS, STOPPING)),
        (News("a line"),            (STARTING, RUNS,     STOPPING)),
        (Ready(),                   (RUNS,     RUNS,     STOPPING)),
        (Idle(),                    (STARTING, RUNS,     STOPPING)),
        (Ending(Why.LEADER_ENDED),  (STOPPING, STOPPING, STOPPING)),
        (Over(PROVED, Why.ASKED),   (RELEASED, RELEASED, RELEASED)),
        (Over(PROVED, Why.IDLE),    (RELEASED, RELEASED, RELEASED)),
        (Over(PROVED, Why.LEADER_ENDED), (FAILED, FAILED, FAILED)),
        (Over(PROVED, Why.GUARD_GONE), (FAILED, FAILED,  FAILED)),
        (Over(PROVED, Why.FAULT),   (FAILED,   FAILED,   FAILED)),
        (Over(RECHECKABLE, Why.ASKED),   (FAILED,   FAILED,   FAILED)),
        (Over(LEFT, Why.ASKED),     (FAILED,   FAILED,   FAILED)),
        (NeverStarted(ERROR),       (FAILED,   FAILED,   FAILED)),
        (SupervisorFailed(ERROR),             (FAILED,   FAILED,   FAILED)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_state_after_a_notice(notice, ends):
    for before, expected in zip((STARTING, RUNS, STOPPING), ends, strict=True):
        after = status(before).after(notice, AT, 5.0)
        assert after.state is expected
        changed = {} if expected is before else {expected: AT}
        assert after.times == {before: 1.0, **changed}


class TestWhatANoticeTells:
    def test_the_leader(self):
        after = status().after(STARTED, AT, 5.0)
        assert after == status(
            folder=STARTED.folder,
            leader=Identity(7, 8),
            kind=StartKind.COLD,
            cold_because="no spare was warm",
        )

    def test_the_progress(self):
        progress = Progress(Stage.LOADING, (3, 8))
        assert status().after(ProgressChanged(progress), AT, 5.0) == status(progress=progress)

    def test_how_long_the_start_took(self):
        after = status().after(Ready(), AT, 5.0)
        assert (after.ready_after, after.progress) == (5.0, READY)

    def test_ready_while_it_is_stopped_already_changes_nothing(self):
        assert status(STOPPING).after(Ready(), AT, 5.0) == status(STOPPING)

    def test_a_server_that_never_started_has_nothing_to_release(self):
        after = status().after(NeverStarted(ERROR), AT, 5.0)
        assert (after.error, after.release) == (ERROR, PROVED)

    def test_a_fault_leaves_the_release_as_it_was(self):
        after = status(STOPPING, release=RECHECKABLE).after(SupervisorFailed(ERROR), AT, 5.0)
        assert (after.error, after.release) == (ERROR, RECHECKABLE)

    def test_a_release_that_is_proved_has_no_error(self):
        after = status(STOPPING).after(Over(PROVED, Why.ASKED), AT, 5.0)
        assert (after.release, after.error) == (PROVED, None)

    def test_a_release_that_is_not_proved_has_one(self):
        after = status(STOPPING).after(Over(RECHECKABLE, Why.ASKED), AT, 5.0)
        assert after.release is RECHECKABLE
        assert isinstance(after.error, ReleaseFailed)

    @pytest.mark.parametrize(("before", "kind"), [(STARTING, StartFailed), (RUNS, ServerFailed)])
    def test_the_cause_of_an_end_that_nobody_asked_for(self, before, kind):
        over = Over(PROVED, Why.LEADER_ENDED, Failure("No memory is left", "Use less", ()))
        after = status(before).after(over, AT, 5.0)
        assert isinstance(after.error, kind)
        assert str(after.error).startswith("No memory is left")

    def test_an_end_that_was_asked_for_is_a_release_whatever_the_guards_saw_first(self):
        asked = status(RUNS).requested_to_stop(2.0)
        for why in (Why.LEADER_ENDED, Why.GUARD_GONE, Why.FAULT):
            assert asked.after(Over(PROVED, why), AT, 5.0).state is RELEASED


class TestRequests:
    @pytest.mark.parametrize("before", [STARTING, RUNS, STOPPING])
    def test_a_stop(self, before):
        after = status(before).requested_to_stop(AT)
        assert (after.state, after.is_stop_requested) == (STOPPING, True)

    @pytest.mark.parametrize("before", [RELEASED, FAILED])
    def test_a_stop_of_one_that_is_over_changes_nothing(self, before):
        assert status(before).requested_to_stop(AT) == status(before)

    def test_another_release(self):
        after = status(FAILED, release=LEFT, error=ERROR).reopened(AT)
        assert (after.state, after.is_stop_requested, after.times[STOPPING]) == (STOPPING, True, AT)
        assert (after.release, after.error) == (LEFT, ERROR)  # until that is over

    def test_another_release_that_could_not_begin(self):
        before = status(FAILED, release=LEFT, error=ERROR)
        after = before.reopened(2.0).given_up(AT)
        assert (after.state, after.release, after.error) == (FAILED, LEFT, ERROR)


class TestWhoHearsOfAFailure:
    """Whoever asked for the end waits for it, and gets the error there. Otherwise it is told once."""

    @pytest.mark.parametrize(
        ("asked", "notice", "unheard"),
        [
            (False, Over(PROVED, Why.LEADER_ENDED), True),
            (True, Over(RECHECKABLE, Why.ASKED), False),
            (True, Over(RECHECKABLE, Why.IDLE), True),  # the server itself asked
            (False, NeverStarted(ERROR), True),
            (True, NeverStarted(ERROR), False),
            (False, SupervisorFailed(ERROR), True),
            (True, SupervisorFailed(ERROR), False),
            (False, Over(PROVED, Why.ASKED), False),  # no failure
        ],
    )
    def test_it_is_to_be_told(self, asked, notice, unheard):
        after = status(RUNS, is_stop_requested=asked).after(notice, AT, 5.0)
        assert after.is_error_unreported is unheard
        assert not after.with_error_reported().is_error_unreported


class TestWhatIsLeft:
    @pytest.mark.parametrize("state", [RELEASED, FAILED])
    def test_of_one_that_is_over(self, state):
        assert status(state, release=LEFT).is_left
        assert status(state, release=RECHECKABLE).may_recheck
        assert not status(state, release=PROVED).is_left
        assert not status(state, release=PROVED).may_recheck
        assert not status(state).is_left

    def test_nothing_while_it_is_released_again(self):
        assert not status(STOPPING, release=LEFT).is_left
        assert not status(STOPPING, release=RECHECKABLE).may_recheck


@pytest.mark.parametrize(
    ("state", "over", "runs"),
    [
        (STARTING, False, False),
        (RUNS, False, True),
        (ServerState.UNREACHABLE, False, True),
        (STOPPING, False, False),
        (RELEASED, True, False),
        (FAILED, True, False),
    ],
)
def test_what_a_state_says(state, over, runs):
    assert (state.over, state.runs) == (over, runs)
