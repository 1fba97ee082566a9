"""Following one server until its guards are gone: a pure state machine, events in, actions out.

`StateMachine` has no clock and does no I/O: each event says when it was, each answer is a tuple of actions for the
monitor, and `StateMachine.wake_at` says when the machine wants to hear of the time again. The stop policy is here:

- The first request decides how the server ends. If it grants a drain, and the server is ready, the guards are asked to
  stop it once no request is under way, or when the time of the drain is over; else they are asked at once.
- A later request that may hurry, with less grace, takes the place of the one before and goes to the guards at once, which
  grant the server no more than that grace from then on. Other later requests change nothing.
- Guards hang that do not say within `ANSWER_LIMIT` seconds that a release has begun, or that are not gone `GUARD_LIMIT`
  seconds after the grace of the last stop that they were sent, from here or by somebody else. They are killed, and the
  server is released in their place. If they are not gone `ANSWER_LIMIT` seconds later either, the machine gives up.
- When one guard has ended, the other one has `ANSWER_LIMIT` seconds to say that it has begun the release. Otherwise it hangs.
- At the first sign of an end (a request, a release by the guards, the end of a guard) starts are kept off the GPUs.
- A server that was idle at the last look ends because of that, whoever asks.
- vLLM ends itself some seconds after its engine has died, unless it was told to stay (VLLM_KEEP_ALIVE_ON_ENGINE_DEATH, elastic
  expert parallelism). So some time after a process of a ready server has ended, its health is asked for once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.startup import stages
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.guard.ladder import GUARD_LIMIT
from vllm_magic.guard.protocol import Ended, KnownProcesses, Refused, Started, Stopping, Why
from vllm_magic.lifecycle.actions import (
    BeginRelease,
    GiveUpGuards,
    KillGuards,
    KnowProcesses,
    LookAtDownload,
    LookAtHealth,
    LookAtUse,
    ObserveBeforeStop,
    ObserveReady,
    ReadLog,
    SendStop,
    Tell,
    TellLeaderStarted,
    WatchGuards,
)
from vllm_magic.lifecycle.events import (
    DownloadSeen,
    Ending,
    EngineDied,
    Faulted,
    GuardsEnded,
    HealthSeen,
    Idle,
    LogRead,
    MessageReceived,
    News,
    OneGuardEnded,
    ProcessEnded,
    ProgressChanged,
    Ready,
    StopRequested,
    StopSent,
    TimePassed,
    UseSeen,
)
from vllm_magic.lifecycle.idle_timeout import KEEP_ALIVE, Idleness, Requests
from vllm_magic.lifecycle.status import QUEUED
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Message
    from vllm_magic.lifecycle.actions import Action
    from vllm_magic.lifecycle.events import Event, StopPlan

READY_LOOK = 0.05  # seconds between looks at the log and at /health while the server starts
LAST_TO_DOWNLOAD = stages.ORDER.index(Stage.LOADING)
DOWNLOAD_LOOK = 0.5  # seconds between looks at what is being downloaded
# Seconds from the end of a process to the look whether the server goes on without its engine; vLLM takes 3 to 7 to end itself.
ENGINE_LOOK = 10.0
DRAIN_LOOK = 0.25  # seconds between looks at /metrics while requests finish
ANSWER_LIMIT = 5.0  # seconds for a guard to say that it has begun; one that does not is taken for hung


@dataclass(frozen=True)
class MonitorState:
    """What the state machine knows of a server at one moment. Times are by `time.monotonic`.

    Attributes:
        leader: the first process of the server; None before it runs.
        guards: the guards, as far as they have said who they are.
        progress: of the start.
        is_ready: whether ``/health`` has answered.
        is_idle: whether the server was idle at the last look.
        is_engine_dead: whether the server goes on without its engine.
        refused: why the leader could not be executed; None unless that happened.
        ended: what the guards said that they ended.
        why: what made the server end.
        began: when the end began; None before that.
        plan: the request that decides how the server ends; None before there is one.
        drain_until: when requests have had their time to finish; None unless they are waited for.
        guard_deadline: when the guards count as hung; None while nothing is expected of them.
        are_guards_killed: whether they counted as hung, and were killed.
        is_over: whether the guards are gone, or are not followed any longer.
    """

    leader: Identity | None = None
    guards: tuple[Identity, ...] = ()
    progress: Progress = QUEUED
    is_ready: bool = False
    is_idle: bool = False
    is_engine_dead: bool = False
    refused: Refused | None = None
    ended: tuple[Ended, ...] = ()
    why: Why = Why.GUARD_GONE
    began: float | None = None
    plan: StopPlan | None = None
    drain_until: float | None = None
    guard_deadline: float | None = None
    are_guards_killed: bool = False
    is_over: bool = False

    @property
    def is_starting(self) -> bool:
        """Whether the leader runs, and has not become ready."""
        return self.leader is not None and not self.is_ready and self.began is None

    @property
    def is_serving(self) -> bool:
        """Whether the server is ready, and nothing of its end is known."""
        return self.is_ready and self.began is None


class StateMachine:
    """Decides what is done about each event in the life of a server whose guards live.

    Args:
        first: the stage of the start once the leader runs.
        ttl: seconds without a request after which the server is idle; None for never.
        keep_alive: seconds for which the server leaves an idle connection open.

    Attributes:
        state: what is known; replaced as a whole by each event that changes it.
    """

    def __init__(self, first: Stage, ttl: float | None = None, keep_alive: float = KEEP_ALIVE) -> None:
        self.state = MonitorState()
        self._first = first
        self._idleness = None if ttl is None else Idleness(ttl, Requests(keep_alive))
        self._drained = Requests(keep_alive)
        self._faults: frozenset[str] = frozenset()  # that were told
        # One look of each kind is under way at most.
        self._looks_at_health = False
        self._looks_at_use = False
        # When the next look of each kind is due.
        self._next_look = 0.0
        self._next_download_look = 0.0
        self._next_drain_look = 0.0
        self._next_engine_look: float | None = None

    @property
    def wake_at(self) -> float | None:
        """When `TimePassed` is wanted, by `time.monotonic`; None if only another event can change anything."""
        state = self.state
        times: list[float | None] = []
        if not state.is_over:
            times = [state.drain_until, state.guard_deadline]
            if state.is_starting:
                times.append(self._next_look)
            if state.is_serving:
                times.append(self._next_engine_look)
            if not self._looks_at_use:
                times.append(self._next_use_look)
        return min((time for time in times if time is not None), default=None)

    @property
    def _next_use_look(self) -> float | None:
        """When the next look at the server's use is due; None if its use does not matter."""
        if self.state.drain_until is not None:
            return self._next_drain_look
        return self._idleness.next_look if self._idleness and self.state.is_serving else None

    def handle(self, event: Event) -> tuple[Action, ...]:
        """Take in an event, and return what is to be done, in this order. Once all is over, that is nothing."""
        actions: tuple[Action, ...] = ()
        match event:
            case _ if self.state.is_over:
                self._note_after_fault(event)
            case TimePassed():
                actions = self._on_time(event.at)
            case MessageReceived():
                actions = self._on_message(event.message, event.at)
            case OneGuardEnded() | GuardsEnded():
                actions = self._on_guard_end(event)
            case StopRequested():
                actions = self._on_stop_requested(event.plan, event.at)
            case StopSent():
                self._on_stop_sent(event.at)
            case LogRead() | DownloadSeen() | HealthSeen() if self.state.is_starting:
                actions = self._on_start_look(event)
            case ProcessEnded() | HealthSeen() | UseSeen():
                actions = self._on_look(event)
            case Faulted():
                actions = self._on_fault(event.at)
        return actions

    def _on_time(self, at: float) -> tuple[Action, ...]:
        """Begin the looks that are due, and do what a deadline that is over wants."""
        actions: tuple[Action, ...] = ()
        if self.state.is_starting and at >= self._next_look:
            self._next_look = at + READY_LOOK
            actions = (ReadLog(), *self._look_at_health())
        if self._next_engine_look is not None and at >= self._next_engine_look and self.state.is_serving:
            self._next_engine_look = None
            actions += self._look_at_health()
        if self.state.drain_until is not None and at >= self.state.drain_until:
            actions += self._end_drain()
        elif self._next_use_look is not None and at >= self._next_use_look and not self._looks_at_use:
            actions += self._look_at_use()
        if self.state.guard_deadline is not None and at >= self.state.guard_deadline:
            actions += self._on_guards_hang(at)
        return actions

    def _on_guards_hang(self, at: float) -> tuple[Action, ...]:
        if self.state.are_guards_killed:
            return (GiveUpGuards(),)
        self._change(are_guards_killed=True, guard_deadline=at + ANSWER_LIMIT)
        return (KillGuards(),)

    def _on_guard_end(self, event: OneGuardEnded | GuardsEnded) -> tuple[Action, ...]:
        """After the end of one guard the other one has to release the server, unless the release has begun before."""
        if isinstance(event, GuardsEnded):
            self._change(is_over=True)
        elif self.state.guard_deadline is None:
            self._change(guard_deadline=event.at + ANSWER_LIMIT)
        return self._begin_end(event.at)

    def _on_message(self, message: Message, at: float) -> tuple[Action, ...]:
        self._note(message)
        match message:
            case Started():
                leader = Identity(*message.leader)
                actions = (TellLeaderStarted(leader), *self._progress(Progress(self._first)))
                return (*actions, WatchGuards(self.state.guards))
            case KnownProcesses():
                return (KnowProcesses(tuple(Identity(*one) for one in message.known)),)
            case Stopping():
                return self._on_stopping(message, at)
        return ()

    def _note(self, message: Message) -> None:
        """Keep what a message says of the server for good."""
        match message:
            case Started():
                guards = Identity(*message.outer), Identity(*message.inner)
                self._change(leader=Identity(*message.leader), guards=guards)
            case Refused():
                self._change(refused=message)
            case Ended():
                self._change(ended=(*self.state.ended, message))

    def _note_after_fault(self, event: Event) -> None:
        """Keep what the guards said before they were killed because of a fault."""
        if isinstance(event, MessageReceived):
            self._note(event.message)

    def _on_stopping(self, message: Stopping, at: float) -> tuple[Action, ...]:
        """The guards have begun to end the server."""
        why, plan = Why(message.why), self.state.plan
        if why is Why.ASKED:
            why = self._why_asked
        is_stop_sent = plan is not None and self.state.drain_until is None
        grace = plan.grace if plan and is_stop_sent else message.grace
        self._change(why=why, guard_deadline=at + grace + GUARD_LIMIT)
        return (*self._begin_end(at), Tell(Ending(why)))

    def _on_stop_requested(self, plan: StopPlan, at: float) -> tuple[Action, ...]:
        if self.state.plan is None:
            self._change(plan=plan)
            began = self._begin_end(plan.asked)
            if plan.drain > 0 and self.state.is_ready:
                self._change(drain_until=at + plan.drain)
                # Also where a look is under way, which may not see the latest request.
                return (*began, *self._look_at_use())
            return (*began, *self._send_stop(plan))
        if plan.hurry and plan.grace < self.state.plan.grace:
            self._change(plan=plan)
            return self._send_stop(plan)
        return ()

    def _on_stop_sent(self, at: float) -> None:
        """Guards that do not answer now hang; those that have begun have been hurried."""
        deadline = self.state.guard_deadline
        if deadline is None:
            self._change(guard_deadline=at + ANSWER_LIMIT)
        elif self.state.plan:
            self._change(guard_deadline=min(deadline, at + self.state.plan.grace + GUARD_LIMIT))

    def _end_drain(self) -> tuple[Action, ...]:
        assert self.state.plan is not None  # noqa: S101 - it has granted the drain
        return self._send_stop(self.state.plan)

    def _send_stop(self, plan: StopPlan) -> tuple[Action, ...]:
        self._change(drain_until=None)
        send = SendStop(plan.grace, plan.patience)
        return (ObserveBeforeStop(), send) if self.state.guard_deadline is None else (send,)

    def _begin_end(self, began: float) -> tuple[Action, ...]:
        """At the first sign of the end."""
        if self.state.began is not None:
            return ()
        self._change(began=began)
        return (BeginRelease(),)

    def _on_fault(self, at: float) -> tuple[Action, ...]:
        began = self._begin_end(at)
        if self.state.why is Why.GUARD_GONE:
            self._change(why=self._why_asked if self.state.plan else Why.FAULT)
        self._change(is_over=True)
        return (*began, ObserveBeforeStop()) if self.state.guard_deadline is None else began

    @property
    def _why_asked(self) -> Why:
        return Why.IDLE if self.state.is_idle else Why.ASKED

    def _on_start_look(self, event: LogRead | DownloadSeen | HealthSeen) -> tuple[Action, ...]:
        match event:
            case LogRead():
                return self._on_log_read(event)
            case DownloadSeen():
                return self._progress(replace(self.state.progress, download=event.download))
            case HealthSeen():
                self._looks_at_health = False
                actions = self._tell_fault(event.fault)
                if not event.is_ready:
                    return actions
                self._change(is_ready=True)
                return (*actions, Tell(Ready()), ObserveReady())

    def _on_look(self, event: ProcessEnded | HealthSeen | UseSeen) -> tuple[Action, ...]:
        """Take in what was seen of a server that was ready once."""
        match event:
            case UseSeen():
                return self._on_use_seen(event)
            case HealthSeen() if self.state.is_serving:
                return self._on_engine_look(event)
            case ProcessEnded() if self.state.is_serving and self._next_engine_look is None:
                self._next_engine_look = event.at + ENGINE_LOOK
        return ()

    def _on_engine_look(self, event: HealthSeen) -> tuple[Action, ...]:
        self._looks_at_health = False
        actions = self._tell_fault(event.fault)
        if not event.is_engine_dead or self.state.is_engine_dead:
            return actions
        self._change(is_engine_dead=True)
        return (*actions, Tell(EngineDied()))

    def _on_log_read(self, event: LogRead) -> tuple[Action, ...]:
        actions: tuple[Action, ...] = ()
        for found in event.found:
            actions += self._progress(stages.later(self.state.progress, found))
        # Weights are downloaded when they are to be loaded, and what is small before.
        may_download = stages.ORDER.index(self.state.progress.stage) <= LAST_TO_DOWNLOAD
        if may_download and event.at >= self._next_download_look:
            self._next_download_look = event.at + DOWNLOAD_LOOK
            actions += (LookAtDownload(),)
        return actions

    def _on_use_seen(self, event: UseSeen) -> tuple[Action, ...]:
        self._looks_at_use = False
        if self.state.drain_until is not None:
            self._next_drain_look = event.at + DRAIN_LOOK
            is_drained = self._drained.under_way(event.use, event.at) is False
            return (*self._tell_fault(event.fault), *(self._end_drain() if is_drained else ()))
        if self._idleness and self.state.is_serving:
            self._change(is_idle=self._idleness.observe(event.use, event.at))
            return (*self._tell_fault(event.fault), *((Tell(Idle()),) if self.state.is_idle else ()))
        return ()

    def _look_at_health(self) -> tuple[Action, ...]:
        if self._looks_at_health:
            return ()
        self._looks_at_health = True
        return (LookAtHealth(),)

    def _look_at_use(self) -> tuple[Action, ...]:
        self._looks_at_use = True
        return (LookAtUse(),)

    def _progress(self, progress: Progress) -> tuple[Action, ...]:
        if progress == self.state.progress:
            return ()
        self._change(progress=progress)
        return (Tell(ProgressChanged(progress)),)

    def _tell_fault(self, fault: str) -> tuple[Action, ...]:
        """A look that failed is told once, and is no reason to end the server."""
        if not fault or fault in self._faults:
            return ()
        self._faults |= {fault}
        return (Tell(News(fault)),)

    def _change(self, **fields: Any) -> None:
        self.state = replace(self.state, **fields)
