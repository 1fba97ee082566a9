"""The decisions about one server until its guards are gone: a pure state machine, with events as input and actions as output.

`StateMachine` has no clock and does no I/O: each event has its time, each result is a tuple of actions for the monitor, and
`StateMachine.wake_at` is the time of the next `TimePassed` that the machine needs. The stop policy is here:

- The first stop request decides how the server ends. If it grants a drain, and the server is ready, the guards get the stop
  when no request is under way any more, or when the time of the drain is over. Otherwise the guards get the stop at once.
- A later stop request with `StopPlan.hurry` and less grace replaces the earlier request, and the guards get it at once. From
  then on, the server has no more than that grace. Other later requests change nothing.
- Guards are late if they do not report within `ANSWER_LIMIT` seconds that a release has begun, or if they are not gone
  `GUARD_LIMIT` seconds after the grace of the last stop, whichever process sent it. Late guards count as hung if one of them
  is stopped. Otherwise the machine may be busy, and they get `LATE_LIMIT` more seconds.
- Hung guards are killed, and the kernel releases the server in their place. If the guards are not gone `ANSWER_LIMIT` seconds
  later either, the machine gives up.
- Guards also count as hung if they have neither started the leader nor ended `START_LIMIT` seconds after the first
  `TimePassed`, for example because a signal has stopped them.
- When one guard has ended, the other guard has `ANSWER_LIMIT` seconds to report that it has begun the release. Otherwise it
  is late.
- At the first sign of an end (a stop request, a release by the guards, the end of a guard), starts are kept off the GPUs.
- If the server was idle at the last reading of its use, idleness is the reason of its end, whoever requested the stop.
- vLLM ends itself some seconds after its engine has died, unless it is configured to stay (VLLM_KEEP_ALIVE_ON_ENGINE_DEATH,
  elastic expert parallelism). So some time after a process of a ready server has ended, the server's health is checked again.
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
    CheckGuards,
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
    GuardsChecked,
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
    StopRequested,
    StopSent,
    TimePassed,
    UseRead,
)
from vllm_magic.lifecycle.idle_timeout import Idleness, Requests
from vllm_magic.lifecycle.status import QUEUED
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Message
    from vllm_magic.lifecycle.actions import Action
    from vllm_magic.lifecycle.events import Event, StopPlan

READY_INTERVAL = 0.05  # seconds between readings of the log, and between checks of /health, during the start
LAST_TO_DOWNLOAD = stages.ORDER.index(Stage.LOADING)
DOWNLOAD_INTERVAL = 0.5  # seconds between readings of the progress of a download
# Seconds from the end of a process to the check whether the server goes on without its engine; vLLM takes 3 to 7 s to end itself.
ENGINE_CHECK_DELAY = 10.0
DRAIN_INTERVAL = 0.25  # seconds between readings of the server's use while requests finish
# Seconds for the guards to report that the leader runs; usually they need less than one second.
START_LIMIT = 60.0
ANSWER_LIMIT = 5.0  # seconds for a guard to report that a release has begun, until it is late
LATE_LIMIT = 20.0  # seconds that late guards get on a busy machine, until they count as hung


@dataclass(frozen=True)
class MonitorState:
    """The state of the state machine. Times are by `time.monotonic`.

    Attributes:
        leader: the first process of the server; None before it runs.
        guards: the guards; empty before they have reported their identities.
        progress: the progress of the start.
        is_ready: whether ``/health`` has answered.
        is_idle: whether the server was idle at the last reading of its use.
        is_engine_dead: whether the server goes on without its engine.
        refused: why the leader could not be executed; None if it could.
        ended: the reports of the guards about the processes that they ended.
        why: the reason of the server's end.
        began: when the end began; None before that.
        plan: the stop request that decides how the server ends; None before the first stop request.
        drain_until: when the time for requests to finish is over; None if no drain is under way.
        start_deadline: when guards that have not started the leader count as hung; None before the first event.
        guard_deadline: when the guards are late, or count as hung; None while no report of them is expected.
        are_guards_late: whether the guards were late and not stopped, and so got more time.
        is_start_overdue: whether the guards counted as hung because of the start.
        are_guards_killed: whether the guards counted as hung, and were killed.
        is_over: whether the guards are gone, or are not followed any more.
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
    start_deadline: float | None = None
    guard_deadline: float | None = None
    are_guards_late: bool = False
    is_start_overdue: bool = False
    are_guards_killed: bool = False
    is_over: bool = False

    @property
    def awaits_leader(self) -> bool:
        """Whether the guards have not started the leader yet; they start it, or end."""
        return self.leader is None and self.began is None

    @property
    def is_starting(self) -> bool:
        """Whether the leader runs, and the server is neither ready nor ending."""
        return self.leader is not None and not self.is_ready and self.began is None

    @property
    def is_serving(self) -> bool:
        """Whether the server is ready, and its end has not begun."""
        return self.is_ready and self.began is None


class StateMachine:
    """Decides what is done about each event in the life of a server whose guards live.

    Args:
        first: the stage of the start once the leader runs.
        ttl: seconds without a request after which the server is idle; None for never.
        keep_alive: seconds for which the server leaves an idle connection open.

    Attributes:
        state: the state; each event that changes it replaces it as a whole.
    """

    def __init__(self, first: Stage, ttl: float | None, keep_alive: float) -> None:
        self.state = MonitorState()
        self._first = first
        self._idleness = None if ttl is None else Idleness(ttl, Requests(keep_alive))
        self._drained = Requests(keep_alive)
        self._reported_faults: frozenset[str] = frozenset()
        # At most one reading of each kind is under way.
        self._is_checking_health = False
        self._is_reading_use = False
        # When the next reading of each kind is due.
        self._next_start_reading = 0.0
        self._next_download_reading = 0.0
        self._next_drain_reading = 0.0
        self._next_engine_check: float | None = None

    @property
    def wake_at(self) -> float | None:
        """When the machine needs the next `TimePassed`, by `time.monotonic`; None if it needs none."""
        state = self.state
        times: list[float | None] = []
        if not state.is_over:
            times = [state.drain_until, state.guard_deadline]
            if state.awaits_leader:
                times.append(state.start_deadline or 0.0)
            if state.is_starting:
                times.append(self._next_start_reading)
            if state.is_serving:
                times.append(self._next_engine_check)
            if not self._is_reading_use:
                times.append(self._next_use_reading)
        return min((time for time in times if time is not None), default=None)

    @property
    def _next_use_reading(self) -> float | None:
        """When the next reading of the server's use is due; None if its use does not matter."""
        if self.state.drain_until is not None:
            return self._next_drain_reading
        return self._idleness.next_reading if self._idleness and self.state.is_serving else None

    def handle(self, event: Event) -> tuple[Action, ...]:
        """Change the state by an event, and return the actions, in their order; () once the machine is over."""
        actions: tuple[Action, ...] = ()
        match event:
            case _ if self.state.is_over:
                self._note_after_fault(event)
            case TimePassed():
                actions = self._on_time(event.at)
            case MessageReceived():
                actions = self._on_message(event.message, event.at)
            case OneGuardEnded() | GuardsEnded() | GuardsChecked():
                actions = self._on_guards(event)
            case StopRequested():
                actions = self._on_stop_requested(event.plan, event.at)
            case StopSent():
                self._on_stop_sent(event.at)
            case LogRead() | DownloadRead() | HealthChecked() if self.state.is_starting:
                actions = self._on_start_reading(event)
            case ProcessEnded() | HealthChecked() | UseRead():
                actions = self._on_later_reading(event)
            case Faulted():
                actions = self._on_fault(event.at)
        return actions

    def _on_time(self, at: float) -> tuple[Action, ...]:
        """Return the readings that are due, and the actions for deadlines that are over."""
        actions: tuple[Action, ...] = ()
        if self.state.is_starting and at >= self._next_start_reading:
            self._next_start_reading = at + READY_INTERVAL
            actions = (ReadLog(), *self._check_health())
        if self._next_engine_check is not None and at >= self._next_engine_check and self.state.is_serving:
            self._next_engine_check = None
            actions += self._check_health()
        if self.state.drain_until is not None and at >= self.state.drain_until:
            actions += self._end_drain()
        elif self._next_use_reading is not None and at >= self._next_use_reading and not self._is_reading_use:
            actions += self._read_use()
        if self.state.guard_deadline is not None and at >= self.state.guard_deadline:
            actions += self._on_guards_late(at)
        return actions + self._check_start_deadline(at)

    def _check_start_deadline(self, at: float) -> tuple[Action, ...]:
        if not self.state.awaits_leader:
            return ()
        if self.state.start_deadline is None:
            self._change(start_deadline=at + START_LIMIT)
        elif at >= self.state.start_deadline:
            self._change(is_start_overdue=True)
            return (*self._begin_end(at), *self._on_guards_hang(at))
        return ()

    def _on_guards_late(self, at: float) -> tuple[Action, ...]:
        if self.state.are_guards_killed:
            return (GiveUpGuards(),)
        return self._on_guards_hang(at) if self.state.are_guards_late else (CheckGuards(),)

    def _on_guards_checked(self, event: GuardsChecked) -> tuple[Action, ...]:
        if event.are_stopped:
            return self._on_guards_hang(event.at)
        self._change(are_guards_late=True, guard_deadline=event.at + LATE_LIMIT)
        return ()

    def _on_guards_hang(self, at: float) -> tuple[Action, ...]:
        self._change(are_guards_killed=True, guard_deadline=at + ANSWER_LIMIT)
        return (KillGuards(),)

    def _on_guards(self, event: OneGuardEnded | GuardsEnded | GuardsChecked) -> tuple[Action, ...]:
        return (
            self._on_guards_checked(event) if isinstance(event, GuardsChecked) else self._on_guard_end(event)
        )

    def _on_guard_end(self, event: OneGuardEnded | GuardsEnded) -> tuple[Action, ...]:
        """After the end of one guard, the other guard must release the server, unless the release has begun before."""
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
                actions = (NotifyLeaderStarted(leader), *self._progress(Progress(self._first)))
                return (*actions, WatchGuards(self.state.guards))
            case KnownProcesses():
                return (KnowProcesses(tuple(Identity(*pair) for pair in message.known)),)
            case Stopping():
                return self._on_stopping(message, at)
        return ()

    def _note(self, message: Message) -> None:
        """Store the facts of a message that hold until the end."""
        match message:
            case Started():
                guards = Identity(*message.outer), Identity(*message.inner)
                self._change(leader=Identity(*message.leader), guards=guards)
            case Refused():
                self._change(refused=message)
            case Ended():
                self._change(ended=(*self.state.ended, message))

    def _note_after_fault(self, event: Event) -> None:
        """Store the messages that the guards sent before they were killed because of a fault."""
        if isinstance(event, MessageReceived):
            self._note(event.message)

    def _on_stopping(self, message: Stopping, at: float) -> tuple[Action, ...]:
        """Handle the report of the guards that the release has begun."""
        why, plan = Why(message.why), self.state.plan
        if why is Why.ASKED:
            why = self._why_asked
        is_stop_sent = plan is not None and self.state.drain_until is None
        grace = plan.grace if plan and is_stop_sent else message.grace
        self._change(why=why, guard_deadline=at + grace + GUARD_LIMIT, are_guards_late=False)
        return (*self._begin_end(at), Notify(Ending(why)))

    def _on_stop_requested(self, plan: StopPlan, at: float) -> tuple[Action, ...]:
        if self.state.plan is None:
            self._change(plan=plan)
            began = self._begin_end(plan.asked)
            if plan.drain > 0 and self.state.is_ready:
                self._change(drain_until=at + plan.drain)
                # Even if a reading is under way: that reading may lack the latest request.
                return (*began, *self._read_use())
            return (*began, *self._send_stop(plan))
        if plan.hurry and plan.grace < self.state.plan.grace:
            self._change(plan=plan)
            return self._send_stop(plan)
        return ()

    def _on_stop_sent(self, at: float) -> None:
        """Set the deadline of the guards: for their first report, or for the shorter grace if the release has begun."""
        deadline = self.state.guard_deadline
        if deadline is None:
            self._change(guard_deadline=at + ANSWER_LIMIT)
        elif self.state.plan:
            self._change(guard_deadline=min(deadline, at + self.state.plan.grace + GUARD_LIMIT))

    def _end_drain(self) -> tuple[Action, ...]:
        assert self.state.plan is not None  # noqa: S101 - the plan has granted the drain
        return self._send_stop(self.state.plan)

    def _send_stop(self, plan: StopPlan) -> tuple[Action, ...]:
        self._change(drain_until=None)
        send = SendStop(plan.grace, plan.patience)
        return (ObserveBeforeStop(), send) if self.state.guard_deadline is None else (send,)

    def _begin_end(self, began: float) -> tuple[Action, ...]:
        """Return the actions for the first sign of the end; () for any later sign."""
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

    def _on_start_reading(self, event: LogRead | DownloadRead | HealthChecked) -> tuple[Action, ...]:
        match event:
            case LogRead():
                return self._on_log_read(event)
            case DownloadRead():
                return self._progress(replace(self.state.progress, download=event.download))
            case HealthChecked():
                self._is_checking_health = False
                actions = self._notify_fault(event.fault)
                if not event.is_ready:
                    return actions
                self._change(is_ready=True)
                return (*actions, Notify(Ready()), ObserveReady())

    def _on_later_reading(self, event: ProcessEnded | HealthChecked | UseRead) -> tuple[Action, ...]:
        """Handle a reading of a server after its start."""
        match event:
            case UseRead():
                return self._on_use_read(event)
            case HealthChecked() if self.state.is_serving:
                return self._on_engine_checked(event)
            case ProcessEnded() if self.state.is_serving and self._next_engine_check is None:
                self._next_engine_check = event.at + ENGINE_CHECK_DELAY
        return ()

    def _on_engine_checked(self, event: HealthChecked) -> tuple[Action, ...]:
        self._is_checking_health = False
        actions = self._notify_fault(event.fault)
        if not event.is_engine_dead or self.state.is_engine_dead:
            return actions
        self._change(is_engine_dead=True)
        return (*actions, Notify(EngineDied()))

    def _on_log_read(self, event: LogRead) -> tuple[Action, ...]:
        actions: tuple[Action, ...] = ()
        for progress in event.progress:
            actions += self._progress(stages.later(self.state.progress, progress))
        actions += self._progress(replace(self.state.progress, waits_for=event.waits_for))
        # vLLM downloads the weights in the stage LOADING, and small files before.
        may_download = stages.ORDER.index(self.state.progress.stage) <= LAST_TO_DOWNLOAD
        if may_download and event.at >= self._next_download_reading:
            self._next_download_reading = event.at + DOWNLOAD_INTERVAL
            actions += (ReadDownload(),)
        return actions

    def _on_use_read(self, event: UseRead) -> tuple[Action, ...]:
        self._is_reading_use = False
        if self.state.drain_until is not None:
            self._next_drain_reading = event.at + DRAIN_INTERVAL
            is_drained = self._drained.under_way(event.use, event.at) is False
            return (*self._notify_fault(event.fault), *(self._end_drain() if is_drained else ()))
        if self._idleness and self.state.is_serving:
            self._change(is_idle=self._idleness.observe(event.use, event.at))
            return (*self._notify_fault(event.fault), *((Notify(Idle()),) if self.state.is_idle else ()))
        return ()

    def _check_health(self) -> tuple[Action, ...]:
        if self._is_checking_health:
            return ()
        self._is_checking_health = True
        return (CheckHealth(),)

    def _read_use(self) -> tuple[Action, ...]:
        self._is_reading_use = True
        return (ReadUse(),)

    def _progress(self, progress: Progress) -> tuple[Action, ...]:
        if progress == self.state.progress:
            return ()
        self._change(progress=progress)
        return (Notify(ProgressChanged(progress)),)

    def _notify_fault(self, fault: str) -> tuple[Action, ...]:
        """Report the fault of a reading; each fault is reported once. A fault of a reading does not end the server."""
        if not fault or fault in self._reported_faults:
            return ()
        self._reported_faults |= {fault}
        return (Notify(News(fault)),)

    def _change(self, **fields: Any) -> None:
        self.state = replace(self.state, **fields)
