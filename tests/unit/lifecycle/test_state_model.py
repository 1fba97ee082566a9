"""The state machine of a server, with anything that can happen in any order, against a model of what must hold."""

from __future__ import annotations

from collections import Counter

from followed import BEGIN, BUSY, ENDED, KNOWN, QUIET, REFUSED, STARTED, UNKNOWN
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.guard.protocol import Stopping, Why
from vllm_magic.lifecycle.actions import (
    Action,
    BeginRelease,
    CheckGuards,
    CheckHealth,
    GiveUpGuards,
    KillGuards,
    Notify,
    ObserveBeforeStop,
    ReadDownload,
    ReadLog,
    ReadUse,
    SendStop,
)
from vllm_magic.lifecycle.events import (
    DownloadRead,
    Event,
    Faulted,
    GuardsChecked,
    GuardsEnded,
    HealthChecked,
    Idle,
    LogRead,
    MessageReceived,
    OneGuardEnded,
    ProcessEnded,
    Ready,
    StopPlan,
    StopRequested,
    StopSent,
    TimePassed,
    UseRead,
)
from vllm_magic.lifecycle.idle_timeout import KEEP_ALIVE
from vllm_magic.lifecycle.state import ANSWER_LIMIT, GUARD_LIMIT, LATE_LIMIT, START_LIMIT, StateMachine

GRACES = (0.0, 0.5, 5.0, 600.0)
DRAINS = (0.0, 3.0, 60.0)
# Times to be woken up until the end: after the drain, for guards that are late, that hang, and that stay.
STEPS = 5


class FollowedServer(RuleBasedStateMachine):
    """One server: what its guards, its requests and the clock do is drawn, what is done about it is checked."""

    @initialize(
        ttl=st.sampled_from([None, 1.0]),
        begins=st.sampled_from(["new", "ready", "draining"]),
        are_stopped=st.booleans(),
    )
    def begin(self, ttl: float | None, begins: str, are_stopped: bool) -> None:
        self.machine = StateMachine(Stage.IMPORTING, ttl, KEEP_ALIVE)
        self.ttl = ttl
        self.now = BEGIN
        self.done: Counter[type] = Counter()  # actions and notices, by their type
        self.health_asked = self.use_asked = False  # looks that are under way
        self.log: tuple[Progress, ...] = ()
        self.sent: list[float] = []  # the grace of each stop that the guards got
        self.drain_until: float | None = None
        self.kill_from: float | None = None  # before that no guard may be killed
        self.are_stopped = are_stopped  # the guards, if they are late
        self.are_late = False
        self.start_until: float | None = None  # the same for guards that have not answered yet
        if begins != "new":
            self.the_leader_starts()
            self.passes(0.0)
            self.health_is_answered(is_ready=True, fault="")
        if begins == "draining":
            self.somebody_stops_it(GRACES[-1], DRAINS[-1], hurry=False)

    @property
    def state(self):
        return self.machine.state

    def happens(self, event: Event) -> None:
        """Have the machine handle an event, and check and do what it answers."""
        was_over = self.state.is_over
        actions = self.machine.handle(event)
        assert not (was_over and actions), "something is done after the end"
        for action in actions:
            self.done[type(action.notice if isinstance(action, Notify) else action)] += 1
            self.do(action, event)

    def do(self, action: Action, event: Event) -> None:
        match action:
            case ReadLog():
                self.happens(LogRead(self.now, self.log))
            case ReadDownload():
                self.happens(DownloadRead(self.now, None))
            case CheckHealth():
                assert not self.health_asked
                self.health_asked = True
            case ReadUse():
                assert not self.use_asked or isinstance(event, StopRequested)  # which drops the one before
                self.use_asked = True
            case SendStop():
                self.send_stop(action.grace, event)
            case CheckGuards():
                self.check_guards()
            case KillGuards():
                deadline = self.start_until if self.kill_from is None else self.kill_from
                assert deadline is not None
                assert self.now >= deadline, "guards are killed before their deadline"
                self.kill_from = self.now + ANSWER_LIMIT
            case GiveUpGuards():
                assert self.done[KillGuards] == 1
                assert self.now >= self.kill_from
                self.happens(Faulted(self.now))
            case Notify(Idle()):
                assert self.ttl is not None
                assert isinstance(event, UseRead)
                assert event.use is QUIET

    def check_guards(self) -> None:
        assert not self.are_late, "guards that were late are checked again"
        assert self.now >= self.kill_from
        self.are_late = not self.are_stopped
        if self.are_late:
            self.kill_from = self.now + LATE_LIMIT
        self.happens(GuardsChecked(self.now, self.are_stopped))

    def send_stop(self, grace: float, event: Event) -> None:
        assert self.done[BeginRelease] == 1, "starts are not kept off the GPUs"
        assert not self.sent or grace < self.sent[-1], "a hurry gives more grace"
        if self.drain_until is not None:
            is_quiet = isinstance(event, UseRead) and event.use is QUIET
            is_hurried = isinstance(event, StopRequested)
            assert is_quiet or is_hurried or self.now >= self.drain_until, "the drain is cut short"
        self.drain_until = None
        self.sent.append(grace)
        if self.kill_from is None:
            assert self.done[ObserveBeforeStop] == 1
            self.kill_from = self.now + ANSWER_LIMIT
        else:
            self.kill_from = min(self.kill_from, self.now + grace + GUARD_LIMIT)
        self.happens(StopSent(self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.happens(TimePassed(self.now))
        self.start_until = self.start_until or self.now + START_LIMIT
        wake_at = self.machine.wake_at
        assert wake_at is None or wake_at > self.now, "it wants to be woken up at once, again and again"

    def says(self, message) -> None:
        self.happens(MessageReceived(self.now, message))

    # The clock.

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.25, 1.0, 5.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        """Also far more than the machine has asked for: it may be busy, or suspended."""
        self.passes(seconds)

    @precondition(lambda self: self.machine.wake_at is not None)
    @rule(early=st.sampled_from([0.0, 0.001]))
    def it_is_woken_up(self, early: float = 0.0) -> None:
        """At the time for which it has asked, or just before that."""
        self.passes(max(0.0, self.machine.wake_at - early - self.now))

    # The guards.

    @precondition(lambda self: self.state.leader is None and not self.state.are_guards_killed)
    @rule()
    def the_leader_starts(self) -> None:
        self.says(STARTED)

    @precondition(lambda self: not self.state.is_over)
    @rule(message=st.sampled_from([KNOWN, REFUSED, ENDED]))
    def the_guards_say_something(self, message) -> None:
        self.says(message)

    @precondition(lambda self: self.done[KillGuards] == 0 and not self.state.is_over)
    @rule(why=st.sampled_from(Why), grace=st.sampled_from(GRACES))
    def the_guards_begin(self, why: Why, grace: float) -> None:
        """Also because somebody else has asked them, with a grace that this kernel does not know."""
        self.kill_from = self.now + (self.sent[-1] if self.sent else grace) + GUARD_LIMIT
        self.are_late = False
        self.says(Stopping(why.value, grace))

    @precondition(lambda self: self.state.leader is not None and not self.state.is_over)
    @rule()
    def one_guard_ends(self) -> None:
        if self.kill_from is None:
            self.kill_from = self.now + ANSWER_LIMIT
        self.happens(OneGuardEnded(self.now))

    # The server.

    @precondition(lambda self: self.state.is_starting)
    @rule(stage=st.sampled_from(Stage))
    def the_log_grows(self, stage: Stage) -> None:
        self.log = (Progress(stage),)

    @precondition(lambda self: self.health_asked)
    @rule(is_ready=st.booleans(), fault=st.sampled_from(["", "a fault"]), is_dead=st.booleans())
    def health_is_answered(self, is_ready: bool, fault: str, is_dead: bool = False) -> None:
        self.health_asked = False
        is_ready = is_ready and not fault
        self.happens(HealthChecked(self.now, is_ready, fault, is_dead and not is_ready and not fault))

    @precondition(lambda self: self.state.is_ready and not self.state.is_over)
    @rule()
    def a_process_of_the_server_ends(self) -> None:
        self.happens(ProcessEnded(self.now))

    @precondition(lambda self: self.use_asked)
    @rule(use=st.sampled_from([QUIET, BUSY, UNKNOWN]))
    def use_is_answered(self, use) -> None:
        self.use_asked = False
        self.happens(UseRead(self.now, use))

    # Its end.

    @rule(grace=st.sampled_from(GRACES), drain=st.sampled_from(DRAINS), hurry=st.booleans())
    def somebody_stops_it(self, grace: float, drain: float, hurry: bool) -> None:
        is_first = self.state.plan is None and not self.state.is_over
        if is_first and drain and self.state.is_ready:
            self.drain_until = self.now + drain
        before = len(self.sent)
        self.happens(StopRequested(self.now, StopPlan(grace, grace, drain, hurry, self.now)))
        if is_first and self.drain_until is None:
            assert len(self.sent) == before + 1, "the guards are not asked"

    @rule(how=st.sampled_from([None] * 20 + [GuardsEnded, Faulted]))
    def it_is_over(self, how: type[GuardsEnded | Faulted] | None) -> None:
        """Seldom, so that something happens before."""
        if how is not None:
            self.happens(how(self.now))
            assert self.state.is_over

    @invariant()
    def what_happens_once_happens_once(self) -> None:
        for kind in (BeginRelease, KillGuards, GiveUpGuards, Ready):
            assert self.done[kind] <= 1, kind
        assert (self.state.began is not None) == (self.done[BeginRelease] == 1)
        # A fault may have come while it was made.
        assert self.done[ObserveBeforeStop] <= 1

    @invariant()
    def nobody_waits_without_an_end(self) -> None:
        state = self.state
        if state.is_over:
            assert self.machine.wake_at is None
        elif state.plan is not None:
            assert self.machine.wake_at is not None, "a stop waits for ever"
            assert state.drain_until is None or self.sent == []
            assert state.drain_until == self.drain_until
        if not state.is_over and self.kill_from is not None:
            assert state.guard_deadline == self.kill_from

    @invariant()
    def a_server_that_ends_is_not_looked_at(self) -> None:
        state = self.state
        assert not (state.is_starting and state.is_serving)
        assert not (state.began is not None and (state.is_starting or state.is_serving))

    def teardown(self) -> None:
        """Whatever has happened before: a stop leads to the end in its time, also if nothing answers any more."""
        if not hasattr(self, "machine"):
            return
        asked = self.now
        self.somebody_stops_it(GRACES[-1], DRAINS[-1], hurry=False)
        for _ in range(STEPS):
            if self.state.is_over:
                break
            self.it_is_woken_up()
        assert self.state.is_over
        assert self.now - asked <= max(DRAINS) + max(GRACES) + GUARD_LIMIT + 2 * ANSWER_LIMIT + LATE_LIMIT


TestFollowedServer = FollowedServer.TestCase
TestFollowedServer.settings = settings(
    max_examples=300, stateful_step_count=30, derandomize=True, deadline=None, database=None
)
