"""The state machine of a server that is followed: every transition, and each clause of the stop policy.

No process, no thread, no clock: `Followed` lets things happen, and what is to be done is compared.
"""

from __future__ import annotations

import pytest
from followed import (
    BEGIN,
    BUSY,
    ENDED,
    INNER,
    KNOWN,
    LEADER,
    OUTER,
    QUIET,
    REFUSED,
    STARTED,
    UNKNOWN,
    Followed,
    ready,
    starting,
)

from vllm_magic.engine.models.download import Download
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.guard.protocol import Stopping, Why
from vllm_magic.lifecycle.actions import (
    BeginRelease,
    CheckHealth,
    GiveUpGuards,
    KillGuards,
    KnowProcesses,
    Notify,
    NotifyLeaderStarted,
    ObserveBeforeStop,
    ObserveReady,
    ReadDownload,
    ReadLog,
    ReadUse,
    SendStop,
    WatchGuards,
)
from vllm_magic.lifecycle.events import (
    DownloadRead,
    Ending,
    EngineDied,
    Faulted,
    GuardsEnded,
    HealthChecked,
    Idle,
    LogRead,
    MessageReceived,
    News,
    OneGuardEnded,
    ProcessEnded,
    ProgressChanged,
    Ready,
    StopPlan,
    StopRequested,
    StopSent,
    TimePassed,
    UseRead,
)
from vllm_magic.lifecycle.state import (
    ANSWER_LIMIT,
    DOWNLOAD_INTERVAL,
    DRAIN_INTERVAL,
    ENGINE_CHECK_DELAY,
    GUARD_LIMIT,
    LATE_LIMIT,
    READY_INTERVAL,
    START_LIMIT,
    MonitorState,
)
from vllm_magic.linux.processes import Identity

FAULT = "A fault of vllm_magic: RuntimeError: on purpose. Please report it."
SOON = 0.001  # seconds; less than any limit


class TestBeforeTheLeaderRuns:
    def test_nothing_is_looked_at(self):
        server = Followed()
        assert server.machine.wake_at <= server.now
        assert server.passes(3600) == []

    def test_guards_that_do_not_answer_hang(self):
        server = Followed()
        server.passes()
        assert server.machine.wake_at == server.now + START_LIMIT
        assert server.passes(START_LIMIT - SOON) == []
        assert server.passes(SOON) == [BeginRelease(), KillGuards()]
        assert (server.state.is_start_overdue, server.machine.wake_at) == (True, server.now + ANSWER_LIMIT)
        assert server.passes(ANSWER_LIMIT) == [GiveUpGuards()]

    def test_guards_that_answer_late_do_not(self):
        server = Followed()
        server.passes()
        server.passes(START_LIMIT - SOON)
        server.says(STARTED)
        assert KillGuards() not in server.passes(SOON)
        assert not server.state.is_start_overdue

    def test_guards_that_cannot_execute_the_leader_must_end(self):
        server = Followed()
        server.passes()
        assert server.says(REFUSED) == []
        assert server.passes(START_LIMIT) == [BeginRelease(), KillGuards()]

    def test_a_leader_that_cannot_be_executed(self):
        server = Followed()
        assert server.says(REFUSED) == []
        assert server.state.refused is REFUSED
        assert server.handle(GuardsEnded(server.now)) == [BeginRelease()]

    def test_a_stop_is_sent_at_once_and_the_leader_is_told_all_the_same(self):
        server = Followed()
        assert server.stop(5.0, drain=60) == [BeginRelease(), ObserveBeforeStop(), SendStop(5.0, 2.5)]
        assert NotifyLeaderStarted(LEADER) in server.says(STARTED)
        assert not server.state.is_starting


class TestAStart:
    def test_the_leader_runs(self):
        server = Followed(first=Stage.CONFIGURING)
        configuring = Progress(Stage.CONFIGURING)
        assert server.says(STARTED) == [
            NotifyLeaderStarted(LEADER),
            Notify(ProgressChanged(configuring)),
            WatchGuards((OUTER, INNER)),
        ]
        assert (server.state.leader, server.state.guards) == (LEADER, (OUTER, INNER))
        assert server.state.progress == configuring
        assert server.state.is_starting

    def test_how_often_it_looks(self):
        server = starting()
        assert server.machine.wake_at <= server.now  # at once
        assert server.passes() == [ReadLog(), ReadDownload(), CheckHealth()]
        assert server.machine.wake_at == server.now + READY_INTERVAL
        assert server.passes(READY_INTERVAL / 2) == []
        assert server.passes(READY_INTERVAL / 2) == [ReadLog()]

    def test_health_is_asked_for_once_at_a_time(self):
        server = starting()
        assert CheckHealth() in server.passes()
        assert CheckHealth() not in server.wakes()
        assert server.health(is_ready=False) == []
        assert CheckHealth() in server.wakes()

    def test_it_is_ready(self):
        server = starting()
        server.passes()
        assert server.health() == [Notify(Ready()), ObserveReady()]
        assert server.state.is_serving
        assert server.machine.wake_at is None
        assert server.passes(3600) == []
        assert server.health() == []

    def test_the_progress_is_what_the_log_reports(self):
        server = starting()
        loading = [Progress(Stage.LOADING, (done, 8)) for done in (1, 2, 2)]
        server.log = (*loading, Progress(Stage.ENGINE))  # another worker, which is behind
        assert server.passes()[:3] == [
            ReadLog(),
            Notify(ProgressChanged(loading[0])),
            Notify(ProgressChanged(loading[1])),
        ]
        assert server.state.progress == loading[1]

    def test_a_download_is_looked_at_now_and_then(self):
        server = starting()
        server.download = Download(1, 8, None)
        assert Notify(ProgressChanged(Progress(Stage.IMPORTING, download=server.download))) in server.passes()
        assert ReadDownload() not in server.passes(DOWNLOAD_INTERVAL - READY_INTERVAL)
        assert ReadDownload() in server.passes(READY_INTERVAL)

    def test_nothing_is_downloaded_once_the_weights_are_loaded(self):
        server = starting()
        server.log = (Progress(Stage.COMPILING),)
        assert ReadDownload() not in server.passes()
        assert ReadDownload() not in server.passes(DOWNLOAD_INTERVAL)

    def test_a_look_that_fails_is_told_once_and_ends_nothing(self):
        server = starting()
        server.passes()
        assert server.health(is_ready=False, fault=FAULT) == [Notify(News(FAULT))]
        assert server.health(is_ready=False, fault=FAULT) == []
        assert server.health(is_ready=False, fault="another") == [Notify(News("another"))]
        assert server.state.is_starting

    @pytest.mark.parametrize(
        "ends", [lambda server: server.stop(), lambda server: server.says(Why.LEADER_ENDED)]
    )
    def test_nothing_is_looked_at_once_it_ends(self, ends):
        server = starting()
        server.passes()
        ends(server)
        assert server.passes(1.0) == []
        assert server.handle(LogRead(server.now, (Progress(Stage.LOADING),))) == []
        assert server.handle(DownloadRead(server.now, None)) == []
        assert server.health() == []
        assert not server.state.is_ready

    def test_processes_that_the_guards_name(self):
        assert starting().says(KNOWN) == [KnowProcesses((Identity(8, 80), Identity(9, 90)))]


class TestAStop:
    @pytest.mark.parametrize("server", [Followed, starting, ready])
    def test_the_guards_are_asked_at_once(self, server):
        server = server()
        assert server.stop(5.0) == [BeginRelease(), ObserveBeforeStop(), SendStop(5.0, 2.5)]

    def test_it_begins_when_it_was_asked_for(self):
        server = ready()
        server.handle(StopRequested(server.now, StopPlan(5.0, 2.5, asked=server.now - 3.0)))
        assert server.state.began == server.now - 3.0

    def test_the_time_for_an_answer_begins_when_the_guards_were_asked(self):
        """To see what the server holds may take longer than they have."""
        server = ready()
        server.machine.handle(StopRequested(server.now, StopPlan(5.0, 2.5, asked=server.now)))
        assert server.machine.wake_at is None
        server.machine.handle(StopSent(server.now + 60))
        assert server.machine.wake_at == server.now + 60 + ANSWER_LIMIT

    @pytest.mark.parametrize("before", [0.0, ANSWER_LIMIT - SOON])
    def test_once_the_guards_begin_they_have_the_grace_and_their_limit(self, before):
        server = ready()
        server.stop(5.0)
        assert server.passes(before) == []
        assert server.says(Why.ASKED) == [Notify(Ending(Why.ASKED))]
        assert server.machine.wake_at == server.now + 5.0 + GUARD_LIMIT

    def test_it_is_over_when_the_guards_are_gone(self):
        server = ready()
        server.stop()
        server.says(Why.ASKED)
        server.says(ENDED)
        assert server.handle(GuardsEnded(server.now)) == []
        assert server.state.is_over
        assert (server.state.why, server.state.ended) == (Why.ASKED, (ENDED,))
        assert server.machine.wake_at is None


class TestADrain:
    def test_only_a_server_that_is_ready_drains(self):
        assert ReadUse() not in starting().stop(drain=60)
        assert SendStop(5.0, 2.5) in starting().stop(drain=60)

    def test_requests_have_their_time(self):
        server = ready()
        assert server.stop(5.0, drain=60) == [BeginRelease(), ReadUse()]
        assert server.state.began == server.now
        assert server.state.drain_until == server.now + 60

    def test_it_is_over_when_no_request_is_under_way(self):
        server = ready()
        server.stop(5.0, drain=60)
        assert server.use(BUSY) == []
        assert server.wakes() == [ReadUse()]
        assert server.use(QUIET) == [ObserveBeforeStop(), SendStop(5.0, 2.5)]
        assert server.state.drain_until is None
        assert server.now == BEGIN + DRAIN_INTERVAL

    def test_it_is_over_when_its_time_is(self):
        server = ready()
        server.stop(5.0, drain=60)
        while server.now + DRAIN_INTERVAL < BEGIN + 60:
            assert server.use(BUSY) == []
            assert server.wakes() == [ReadUse()]
        assert server.wakes() == [ObserveBeforeStop(), SendStop(5.0, 2.5)]
        assert server.now == BEGIN + 60

    def test_its_time_is_over_also_while_the_server_does_not_answer(self):
        server = ready()
        server.stop(5.0, drain=1.0)
        assert server.machine.wake_at == BEGIN + 1.0
        assert server.passes(1.0 - SOON) == []
        assert server.passes(SOON) == [ObserveBeforeStop(), SendStop(5.0, 2.5)]

    def test_a_server_that_does_not_say_may_have_requests(self):
        server = ready()
        server.stop(5.0, drain=1.0)
        assert server.use(UNKNOWN) == []
        assert server.state.drain_until is not None

    def test_a_look_that_began_before_may_not_have_seen_the_latest_request(self):
        server = ready(ttl=600)
        assert server.passes() == [ReadUse()]
        assert server.stop(drain=60) == [BeginRelease(), ReadUse()]  # which drops the first one

    def test_a_look_that_fails_is_told_once_and_ends_nothing(self):
        server = ready()
        server.stop(drain=60)
        assert server.use(UNKNOWN, FAULT) == [Notify(News(FAULT))]
        assert server.use(UNKNOWN, FAULT) == []
        assert server.state.drain_until is not None

    def test_an_answer_after_it_changes_nothing(self):
        server = ready()
        server.stop(drain=1.0)
        server.passes(1.0)
        assert server.use(QUIET, FAULT) == []

    def test_a_server_that_ends_meanwhile(self):
        server = ready()
        server.stop(5.0, drain=60)
        assert server.says(Why.LEADER_ENDED) == [Notify(Ending(Why.LEADER_ENDED))]
        assert server.passes(60) == [SendStop(5.0, 2.5), KillGuards()]  # they have had GUARD_LIMIT


class TestAnotherStop:
    """The first request decides; a later one may only hurry."""

    @pytest.mark.parametrize(
        ("grace", "hurry", "sent"),
        [
            (0.0, True, True),
            (4.9, True, True),
            (5.0, True, False),  # not less
            (600.0, True, False),
            (0.0, False, False),  # somebody who only wants to wait as well
        ],
    )
    @pytest.mark.parametrize("drain", [0.0, 60.0])
    @pytest.mark.parametrize("begun", [False, True])
    def test_it_is_sent_if_it_hurries(self, grace, hurry, sent, drain, begun):
        server = ready()
        server.stop(5.0, drain=drain)
        if begun:
            server.says(Why.ASKED)
        observe = [ObserveBeforeStop()] if drain and not begun else []
        expected = [*observe, SendStop(grace, grace / 2)] if sent else []
        assert server.stop(grace, hurry=hurry) == expected
        assert (server.state.drain_until is not None) == (drain > 0 and not sent)

    def test_it_does_not_begin_anew(self):
        server = ready()
        server.stop(5.0)
        began, deadline = server.state.began, server.machine.wake_at
        server.passes(1.0)
        server.stop(0.0, drain=60, hurry=True)
        assert (server.state.began, server.state.drain_until) == (began, None)
        assert server.machine.wake_at == deadline

    def test_the_grace_only_ever_gets_less(self):
        server = ready()
        server.stop(600.0)
        assert server.stop(1.0, hurry=True) == [SendStop(1.0, 0.5)]
        assert server.stop(5.0, hurry=True) == []
        assert server.stop(0.0, hurry=True) == [SendStop(0.0, 0.0)]

    def test_guards_that_were_hurried_have_less_time(self):
        server = ready()
        server.stop(600.0)
        server.says(Why.ASKED)
        server.passes(1.0)
        server.stop(2.0, hurry=True)
        assert server.passes(2.0 + GUARD_LIMIT - SOON) == []
        assert server.passes(SOON) == [KillGuards()]

    def test_also_if_they_begin_after_that(self):
        server = ready()
        server.stop(600.0)
        server.stop(2.0, hurry=True)
        server.says(Why.ASKED)
        assert server.machine.wake_at == server.now + 2.0 + GUARD_LIMIT

    def test_guards_that_were_hurried_late_have_no_more_time(self):
        server = ready()
        server.stop(10.0)
        server.says(Why.ASKED)
        server.passes(9.0)
        deadline = server.machine.wake_at
        server.stop(5.0, hurry=True)
        assert server.machine.wake_at == deadline

    def test_a_stop_of_a_server_that_is_ending_already(self):
        """The guards know of it, and what the server held before is over."""
        server = ready()
        server.says(Why.LEADER_ENDED)
        assert server.stop(5.0) == [SendStop(5.0, 2.5)]


class TestGuardsThatHang:
    def test_they_say_nothing(self):
        server = ready()
        server.stop(600.0)
        assert server.passes(ANSWER_LIMIT - SOON) == []
        assert server.passes(SOON) == [KillGuards()]

    def test_they_do_not_get_done(self):
        server = ready()
        server.stop(600.0)
        server.says(Why.ASKED)
        assert server.passes(600.0 + GUARD_LIMIT - SOON) == []
        assert server.passes(SOON) == [KillGuards()]

    @pytest.mark.parametrize("why", [why for why in Why if why is not Why.ASKED])
    def test_nor_with_a_release_that_nobody_asked_for(self, why):
        server = ready()
        server.says(why)
        assert server.passes(GUARD_LIMIT - SOON) == []
        assert server.passes(SOON) == [KillGuards()]

    def test_slow_ones_get_more_time(self):
        """As on a busy machine, where no guard is stopped."""
        server = ready()
        server.are_guards_stopped = False
        server.stop(600.0)
        assert server.passes(ANSWER_LIMIT) == []
        assert server.passes(LATE_LIMIT - SOON) == []
        assert server.passes(SOON) == [KillGuards()]

    def test_slow_ones_that_begin_the_release_may_be_late_again(self):
        server = ready()
        server.are_guards_stopped = False
        server.stop(600.0)
        server.passes(ANSWER_LIMIT)
        server.says(Why.ASKED)
        assert server.passes(600.0 + GUARD_LIMIT) == []
        assert server.passes(LATE_LIMIT) == [KillGuards()]

    def test_they_are_killed_once_and_then_they_are_gone(self):
        server = ready()
        server.stop()
        server.passes(ANSWER_LIMIT)
        assert server.passes(ANSWER_LIMIT - SOON) == []
        assert server.handle(GuardsEnded(server.now)) == []
        assert (server.state.is_over, server.state.why) == (True, Why.GUARD_GONE)

    def test_what_they_said_before_that_is_heard(self):
        server = ready()
        server.stop()
        server.passes(ANSWER_LIMIT)
        assert server.says(Why.ASKED) == [Notify(Ending(Why.ASKED))]
        server.says(ENDED)
        assert (server.state.why, server.state.ended) == (Why.ASKED, (ENDED,))

    def test_they_are_given_up_if_that_does_not_end_them(self):
        server = ready()
        server.stop()
        server.passes(ANSWER_LIMIT)
        assert server.passes(ANSWER_LIMIT) == [GiveUpGuards()]


class TestTheEndOfOneGuard:
    @pytest.mark.parametrize("server", [starting, ready])
    def test_it_begins_the_end_of_the_server(self, server):
        server = server()
        assert server.handle(OneGuardEnded(server.now)) == [BeginRelease()]
        assert server.state.began == server.now
        assert not server.state.is_over

    def test_the_other_one_says_nothing(self):
        server = ready()
        server.handle(OneGuardEnded(server.now))
        assert server.passes(ANSWER_LIMIT - SOON) == []
        assert server.wakes() == [KillGuards()]
        assert server.handle(GuardsEnded(server.now)) == []
        assert (server.state.is_over, server.state.why) == (True, Why.GUARD_GONE)

    def test_the_other_one_begins_the_release(self):
        server = ready()
        server.handle(OneGuardEnded(server.now))
        server.passes(ANSWER_LIMIT - SOON)
        assert server.says(Why.GUARD_GONE) == [Notify(Ending(Why.GUARD_GONE))]
        assert server.machine.wake_at == server.now + GUARD_LIMIT

    @pytest.mark.parametrize(
        "begin", [lambda server: server.stop(600.0), lambda server: server.says(Why.IDLE)]
    )
    def test_after_the_release_was_asked_for_or_has_begun_nothing_changes(self, begin):
        server = ready()
        begin(server)
        deadline = server.machine.wake_at
        server.passes(1.0)
        assert server.handle(OneGuardEnded(server.now)) == []
        assert server.machine.wake_at == deadline

    def test_a_drain_does_not_lengthen_the_time_of_the_other_one(self):
        server = ready()
        server.stop(5.0, drain=600)
        server.handle(OneGuardEnded(server.now))
        assert KillGuards() in server.passes(ANSWER_LIMIT)

    def test_a_stop_does_not_lengthen_it_either(self):
        server = ready()
        server.handle(OneGuardEnded(server.now))
        deadline = server.machine.wake_at
        server.passes(1.0)
        assert server.stop(600.0) == [SendStop(600.0, 300.0)]
        assert server.machine.wake_at == deadline

    def test_the_end_of_the_second_one_does_not_lengthen_it(self):
        server = ready()
        server.handle(OneGuardEnded(server.now))
        deadline = server.machine.wake_at
        server.passes(1.0)
        assert server.handle(OneGuardEnded(server.now)) == []
        assert server.machine.wake_at == deadline


class TestAnEndThatNobodyAskedFor:
    @pytest.mark.parametrize("server", [Followed, starting, ready])
    @pytest.mark.parametrize("why", [why for why in Why if why is not Why.ASKED])
    def test_the_guards_say_why(self, server, why):
        server = server()
        server.passes(1.0)
        assert server.says(why) == [BeginRelease(), Notify(Ending(why))]
        assert (server.state.why, server.state.began) == (why, server.now)

    def test_somebody_else_has_asked_them(self):
        """In a terminal, say."""
        server = ready()
        assert server.says(Why.ASKED) == [BeginRelease(), Notify(Ending(Why.ASKED))]

    def test_with_a_grace_of_its_own(self):
        server = ready()
        server.says(Stopping(Why.ASKED.value, 120.0))
        assert server.machine.wake_at == server.now + 120.0 + GUARD_LIMIT

    def test_also_during_a_drain(self):
        server = ready()
        server.stop(5.0, drain=600)
        server.says(Stopping(Why.ASKED.value, 120.0))
        assert server.state.guard_deadline == server.now + 120.0 + GUARD_LIMIT

    def test_a_request_of_this_kernel_counts_more(self):
        server = ready()
        server.stop(5.0)
        server.says(Stopping(Why.ASKED.value, 120.0))
        assert server.machine.wake_at == server.now + 5.0 + GUARD_LIMIT

    @pytest.mark.parametrize("server", [Followed, starting, ready])
    def test_the_guards_are_gone_without_a_word(self, server):
        server = server()
        assert server.handle(GuardsEnded(server.now)) == [BeginRelease()]
        assert (server.state.is_over, server.state.why) == (True, Why.GUARD_GONE)
        assert server.state.began == server.now


class TestAnIdleServer:
    def idle(self) -> Followed:
        server = ready(ttl=100)
        server.passes()
        server.use(QUIET)
        while server.wakes() == [ReadUse()] and server.use(QUIET) == []:
            assert server.now < BEGIN + 200
        return server

    def test_it_is_told_after_its_time(self):
        server = self.idle()
        assert server.now == BEGIN + 100
        assert server.state.is_idle
        assert server.state.is_serving  # whoever is told asks for the end

    def test_that_is_why_it_ends(self):
        server = self.idle()
        assert server.stop(5.0) == [BeginRelease(), ObserveBeforeStop(), SendStop(5.0, 2.5)]
        assert server.says(Why.ASKED) == [Notify(Ending(Why.IDLE))]
        assert server.state.why is Why.IDLE

    def test_unless_the_guards_say_something_else(self):
        server = self.idle()
        server.stop()
        assert server.says(Why.LEADER_ENDED) == [Notify(Ending(Why.LEADER_ENDED))]

    def test_it_is_told_again_while_nobody_asks_for_the_end(self):
        server = self.idle()
        assert server.wakes() == [ReadUse()]
        assert server.use(QUIET) == [Notify(Idle())]

    @pytest.mark.parametrize("use", [BUSY, UNKNOWN])
    def test_one_that_is_used_again_is_not(self, use):
        server = self.idle()
        server.wakes()
        assert server.use(use) == []
        server.stop()
        assert server.says(Why.ASKED) == [Notify(Ending(Why.ASKED))]

    def test_one_look_at_a_time(self):
        server = ready(ttl=100)
        assert server.passes() == [ReadUse()]
        assert server.machine.wake_at is None
        assert server.passes(3600) == []

    def test_a_look_that_fails_is_told_once_and_ends_nothing(self):
        server = ready(ttl=100)
        server.passes()
        assert server.use(UNKNOWN, FAULT) == [Notify(News(FAULT))]
        server.wakes()
        assert server.use(UNKNOWN, FAULT) == []
        assert server.state.is_serving

    @pytest.mark.parametrize("server", [lambda: ready(None), lambda: starting(1.0)])
    def test_without_a_time_or_before_it_is_ready_nobody_looks(self, server):
        server = server()
        assert ReadUse() not in server.passes(3600)
        assert server.use(QUIET) == []

    def test_nobody_looks_once_it_ends(self):
        server = ready(ttl=1.0)
        server.stop()
        assert server.passes(2.0) == []

    def test_an_answer_that_comes_after_a_stop_does_not_change_why_it_ends(self):
        server = ready(ttl=1.0)
        server.passes()
        server.use(QUIET)
        assert server.wakes() == [ReadUse()]
        server.stop()
        assert server.use(QUIET, FAULT) == []
        assert server.says(Why.ASKED) == [Notify(Ending(Why.ASKED))]


class TestAnEngineThatDies:
    """vLLM ends itself then, unless it was told to stay."""

    def test_the_server_stays(self):
        server = ready()
        assert server.handle(ProcessEnded(server.now)) == []
        assert server.machine.wake_at == server.now + ENGINE_CHECK_DELAY
        assert CheckHealth() in server.wakes()
        assert server.health(is_ready=False, is_engine_dead=True) == [Notify(EngineDied())]
        assert server.machine.wake_at is None

    def test_it_is_told_once(self):
        server = ready()
        for told in ([Notify(EngineDied())], []):
            server.handle(ProcessEnded(server.now))
            server.wakes()
            assert server.health(is_ready=False, is_engine_dead=True) == told

    def test_several_processes_end_and_one_look_is_enough(self):
        server = ready()
        server.handle(ProcessEnded(server.now))
        due = server.machine.wake_at
        server.passes(1.0)
        assert server.handle(ProcessEnded(server.now)) == []
        assert server.machine.wake_at == due

    @pytest.mark.parametrize(
        "answer", [{"is_ready": True}, {"is_ready": False}, {"is_ready": False, "fault": FAULT}]
    )
    def test_another_process_ended(self, answer):
        server = ready()
        server.handle(ProcessEnded(server.now))
        server.wakes()
        assert Notify(EngineDied()) not in server.health(**answer)
        assert server.machine.wake_at is None

    def test_the_server_ends_with_it(self):
        server = ready()
        server.handle(ProcessEnded(server.now))
        server.says(Why.LEADER_ENDED)
        assert CheckHealth() not in server.passes(ENGINE_CHECK_DELAY)
        assert server.handle(ProcessEnded(server.now)) == []


class TestAFault:
    """The guards cannot be followed any longer: the monitor kills them, whatever the deadlines say."""

    @pytest.mark.parametrize("server", [Followed, starting, ready])
    def test_of_a_server_that_runs(self, server):
        server = server()
        assert server.handle(Faulted(server.now)) == [BeginRelease(), ObserveBeforeStop()]
        assert (server.state.why, server.state.is_over) == (Why.FAULT, True)

    def test_of_one_that_drains(self):
        server = ready()
        server.stop(drain=60)
        assert server.handle(Faulted(server.now)) == [ObserveBeforeStop()]
        assert server.state.why is Why.ASKED

    def test_of_one_that_was_asked_to_stop(self):
        server = ready()
        server.stop()
        assert server.handle(Faulted(server.now)) == []
        assert server.state.why is Why.ASKED

    @pytest.mark.parametrize("why", [Why.LEADER_ENDED, Why.KERNEL_GONE])
    def test_of_one_that_the_guards_release(self, why):
        server = ready()
        server.says(why)
        assert server.handle(Faulted(server.now)) == []
        assert server.state.why is why

    def test_last_words_of_the_guards_are_kept_and_nothing_is_done(self):
        server = Followed()
        server.handle(Faulted(server.now))
        for message in (STARTED, KNOWN, Why.ASKED, ENDED):
            assert server.says(message) == []
        assert (server.state.leader, server.state.ended) == (LEADER, (ENDED,))
        assert (server.state.why, server.state.guard_deadline) == (Why.FAULT, None)


@pytest.mark.parametrize("end", [GuardsEnded, Faulted])
@pytest.mark.parametrize("server", [Followed, starting, ready, lambda: ready(ttl=1.0)])
def test_once_all_is_over_nothing_is_done(server, end):
    server = server()
    server.handle(end(server.now))
    after = server.state
    for event in (
        TimePassed(server.now + 3600),
        StopRequested(server.now, StopPlan(0.0, 0.0, hurry=True, asked=server.now)),
        StopSent(server.now),
        LogRead(server.now, (Progress(Stage.LOADING),)),
        DownloadRead(server.now, None),
        HealthChecked(server.now, is_ready=True, fault=FAULT),
        UseRead(server.now, QUIET, FAULT),
        MessageReceived(server.now, KNOWN),
        OneGuardEnded(server.now),
        GuardsEnded(server.now),
        Faulted(server.now),
    ):
        assert server.handle(event) == []
        assert server.state == after
    assert server.machine.wake_at is None


def test_what_is_known_of_no_server():
    assert MonitorState() == Followed().state
    assert not MonitorState().is_starting
    assert not MonitorState().is_serving
