"""Follow one running server: observe events, pass them to the state machine, and carry out its actions.

All decisions are in `state`; all I/O with the guards, the log, ``/health`` and ``/metrics`` is here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_magic import background, durations, ledger
from vllm_magic.engine.startup import log, stages, standstill
from vllm_magic.errors import VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.guard.ladder import KILL_LIMIT
from vllm_magic.lifecycle import faults, idle_timeout
from vllm_magic.lifecycle.actions import (
    Action,
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
    Event,
    Faulted,
    GuardsChecked,
    GuardsEnded,
    HealthChecked,
    LeaderStarted,
    LogRead,
    MessageReceived,
    Notice,
    OneGuardEnded,
    ProcessEnded,
    StopPlan,
    StopRequested,
    StopSent,
    TimePassed,
    UseRead,
)
from vllm_magic.lifecycle.idle_timeout import ServerUse
from vllm_magic.linux import pidfd, processes, sessions
from vllm_magic.release import force_kill

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from vllm_magic.engine.client.health import Api
    from vllm_magic.guard.client import Guards
    from vllm_magic.lifecycle.state import MonitorState, StateMachine
    from vllm_magic.linux.eventfd import EventFd
    from vllm_magic.linux.processes import Identity
    from vllm_magic.provisioning.base import Prepared

DISK_LIMIT = 1.0  # seconds for the check whether the disk of the log is full
STANDSTILL_AFTER = 30.0  # seconds without a new line of the log, after which the reason is searched
# Seconds to wait for each message of the guards after a fault: they may be releasing the server.
LAST_MESSAGES_LIMIT = KILL_LIMIT + 10.0

_T = TypeVar("_T")


class Monitor:
    """Follows a server until both guards are gone. For one thread.

    Args:
        machine: the state machine, which decides what is done.
        prepared: the server.
        guards: its guards.
        api: the client that requests the server's health and its use. It sends nothing to another program on the port.
        requests: the requests to stop; after adding a request, the caller sets ``wake``.
        wake: wakes this thread.
        notice: called with each notice.
        held: receives the resources to hold until the release is proved: the locks of the GPUs, and the pidfds of the guards.
    """

    def __init__(
        self,
        machine: StateMachine,
        prepared: Prepared,
        guards: Guards,
        api: Api,
        requests: queue.SimpleQueue[StopPlan],
        wake: EventFd,
        notice: Callable[[Notice], None],
        held: contextlib.ExitStack,
    ) -> None:
        self._machine = machine
        self._prepared = prepared
        self._guards = guards
        self._api = api
        self._requests = requests
        self._wake = wake
        self._notice = notice
        self._held = held
        self._follower = log.Follower(prepared.folder.log)
        self._last_line, self._last_line_at, self._waits_for = "", time.monotonic(), ""
        # Each of these calls runs in a thread of its own, so that none of them delays this thread.
        self._disk: Future[str] | None = None
        self._health: Future[int | None] | None = None
        self._use: Future[ServerUse] | None = None
        self._poller = select.poll()
        # Pidfds of guards, and of processes of the ready server, that live as far as is known.
        self._guard_ends: set[int] = set()
        self._process_ends: set[int] = set()
        self._do: dict[type[Action], Callable[[Any], Event | None]] = {
            Notify: self._notify,
            NotifyLeaderStarted: self._notify_leader_started,
            WatchGuards: self._watch_guards,
            ReadLog: self._read_log,
            ReadDownload: self._read_download,
            CheckHealth: self._check_health,
            ReadUse: self._read_use,
            KnowProcesses: self._know_processes,
            ObserveReady: self._observe_ready,
            BeginRelease: self._begin_release,
            ObserveBeforeStop: self._observe_before_stop,
            SendStop: self._send_stop,
            CheckGuards: self._check_guards,
            KillGuards: self._kill_guards,
            GiveUpGuards: self._give_up_guards,
        }

    @property
    def state(self) -> MonitorState:
        """The present state of the state machine."""
        return self._machine.state

    @property
    def disk(self) -> str:
        """A sentence if the disk of the log was full when the end began; "" if it was not, or if the check has no result."""
        if self._disk is None:
            return ""
        with contextlib.suppress(FutureTimeoutError):
            return self._disk.result(DISK_LIMIT)
        return ""

    def run(self) -> None:
        """Follow the server to its end.

        Raises:
            VllmMagicError: the guards do not answer, and SIGKILL does not end them.
        """
        self._poller.register(self._guards.fileno(), select.POLLIN)
        self._poller.register(self._wake.fileno(), select.POLLIN)
        for message in self._guards.waiting():
            self._handle(MessageReceived(time.monotonic(), message))
        while not self.state.is_over:
            for event in self._next_events():
                self._handle(event)

    def give_up(self) -> None:
        """Have the guards release the server after a fault in `run`. Guards that do not end are killed.

        They need nothing from this process, which may have no free descriptor. Their last messages are handled as far as
        possible.
        """
        with contextlib.suppress(Exception):  # this may be the fault
            for action in self._machine.handle(Faulted(time.monotonic())):
                # If an action fails, the proof is weaker, or another start begins too early.
                with contextlib.suppress(Exception):
                    self._do[type(action)](action)
        # After the outer guard's end, the inner guard releases the server at once.
        for end in (self._stop_at_once, self._guards.kill, self._kill_both):
            with contextlib.suppress(Exception):  # this may be the fault
                end()
                if self._receive_until_end():
                    return

    def _stop_at_once(self) -> None:
        self._guards.stop(0.0, 0.0)

    def _kill_both(self) -> None:
        force_kill.kill_guards(self._guard_identities())

    def _receive_until_end(self) -> bool:
        """Handle the last messages of the guards; return whether they have ended, and False if they do not answer."""
        while pidfd.readable([self._guards.fileno()], LAST_MESSAGES_LIMIT):
            messages = self._guards.receive()
            if messages is None:
                return True
            for message in messages:
                self._machine.handle(MessageReceived(time.monotonic(), message))
        return False

    def _handle(self, event: Event) -> None:
        """Pass an event to the state machine, carry out the actions, and handle the events that follow from them."""
        for action in self._machine.handle(event):
            following = self._do[type(action)](action)
            if following is not None:
                self._handle(following)

    def _next_events(self) -> Iterator[Event]:
        """Wait until something happens, and yield the events. The caller handles each event before this looks for the next.

        So the result of a reading is dropped if a request to stop that came before it has begun another reading. `TimePassed`
        comes last, so that a message of the guards that was waiting counts as in time.
        """
        ready = {fd for fd, _ in self._poller.poll(self._timeout())}
        if self._guards.fileno() in ready:
            messages = self._guards.receive()
            if messages is None:
                yield GuardsEnded(time.monotonic())
                return
            for message in messages:
                yield MessageReceived(time.monotonic(), message)
        for ended in self._guard_ends & ready:
            self._guard_ends.remove(ended)
            self._poller.unregister(ended)
            yield OneGuardEnded(time.monotonic())
        for ended in self._process_ends & ready:
            self._process_ends.remove(ended)
            self._poller.unregister(ended)
            yield ProcessEnded(time.monotonic())
        if self._wake.fileno() in ready:
            os.eventfd_read(self._wake.fileno())
        while not self._requests.empty():
            yield StopRequested(time.monotonic(), self._requests.get())
        yield from self._finished_calls()
        yield TimePassed(time.monotonic())

    def _timeout(self) -> float | None:
        """Return the milliseconds until `StateMachine.wake_at`, or fewer; None for no limit."""
        wake_at = self._machine.wake_at
        if wake_at is None:
            return None
        return min(max(0.0, wake_at - time.monotonic()), durations.MOST) * 1000

    def _finished_calls(self) -> Iterator[Event]:
        if self._health is not None and self._health.done():
            status, fault = _result(self._health, None)
            self._health = None
            yield HealthChecked(
                time.monotonic(),
                status == HTTPStatus.OK,
                fault,
                is_engine_dead=status == HTTPStatus.SERVICE_UNAVAILABLE,
            )
        if self._use is not None and self._use.done():
            use, fault = _result(self._use, ServerUse(None))
            self._use = None
            yield UseRead(time.monotonic(), use, fault)

    def _notify(self, action: Notify) -> None:
        self._notice(action.notice)

    def _notify_leader_started(self, action: NotifyLeaderStarted) -> None:
        prepared, verifier = self._prepared, self._prepared.verifier
        self._notice(
            LeaderStarted(
                prepared.folder,
                action.leader,
                verifier.baseline.gpus,
                verifier.chosen,
                prepared.kind,
                prepared.cold_because,
            )
        )

    def _watch_guards(self, action: WatchGuards) -> Event | None:
        for guard in action.guards:
            try:
                end = pidfd.open_pidfd(guard)
            except OSError:  # no descriptor is free: the end of both guards is still noticed
                continue
            if end is None:
                return OneGuardEnded(time.monotonic())
            self._held.callback(os.close, end)
            self._guard_ends.add(end)
            self._poller.register(end, select.POLLIN)
        return None

    def _read_log(self, _: ReadLog) -> Event:
        lines, now = self._follower.new_lines(), time.monotonic()
        if lines:
            self._last_line, self._last_line_at, self._waits_for = lines[-1], now, ""
        elif now >= self._last_line_at + STANDSTILL_AFTER:
            self._last_line_at = now  # so that the reason is searched again after as many seconds
            own = {member.pid for member in self._members()}
            locks = self._prepared.downloads.locks
            self._waits_for = standstill.reason([self._last_line], locks, own)
        progress = tuple(filter(None, map(stages.read, lines)))
        return LogRead(now, progress, self._waits_for)

    def _read_download(self, _: ReadDownload) -> Event:
        return DownloadRead(time.monotonic(), self._prepared.downloads.progress())

    def _check_health(self, _: CheckHealth) -> Event | None:
        self._health = background.call(self._api.health, self._wake.set)
        return None if self._health else HealthChecked(time.monotonic(), is_ready=False)

    def _read_use(self, _: ReadUse) -> Event | None:
        def read() -> ServerUse:
            return idle_timeout.read_use(self._api, self._prepared.port)

        self._use = background.call(read, self._wake.set)
        return None if self._use else UseRead(time.monotonic(), ServerUse(None))

    def _members(self) -> set[Identity]:
        """Return the processes of the server's session, and their descendants."""
        leader = self.state.leader
        return {process.identity for process in sessions.server_members(leader)} if leader else set()

    def _know_processes(self, action: KnowProcesses) -> None:
        verifier = self._prepared.verifier
        verifier.known = {*filter(processes.is_alive, verifier.known), *action.processes}

    def _observe_ready(self, _: ObserveReady) -> None:
        self._guards.report_ready()
        members = self._members()
        self._prepared.verifier.observe_ready(members)
        for member in members - {self.state.leader}:
            self._watch_process(member)

    def _watch_process(self, process: Identity) -> None:
        try:
            end = pidfd.open_pidfd(process)
        except OSError:  # no descriptor is free: the end of the whole server is noticed all the same
            return
        if end is not None:
            self._held.callback(os.close, end)
            self._process_ends.add(end)
            self._poller.register(end, select.POLLIN)

    def _begin_release(self, _: BeginRelease) -> None:
        self._disk = background.call(ledger.full_disk, lambda: None)  # a disk that hangs delays no stop
        # A server is stopped even if the locks cannot be taken (another user has made their folder).
        with contextlib.suppress(OSError):
            self._held.enter_context(locks.ReleaseLocks(self._prepared.gpus))

    def _observe_before_stop(self, _: ObserveBeforeStop) -> None:
        self._prepared.verifier.observe_before_stop(self._members())

    def _send_stop(self, action: SendStop) -> Event:
        self._guards.stop(action.grace, action.patience)
        return StopSent(time.monotonic())

    def _check_guards(self, _: CheckGuards) -> Event:
        living = [guard for identity in self._guard_identities() if (guard := processes.living(identity))]
        stopped = [guard for guard in living if guard.state in processes.STOPPED_STATES]
        return GuardsChecked(time.monotonic(), are_stopped=bool(stopped) or not living)

    def _kill_guards(self, _: KillGuards) -> None:
        guards = self._guard_identities()
        self._guards.kill()
        for guard in guards:
            pidfd.send(guard, signal.SIGKILL)

    def _guard_identities(self) -> tuple[Identity, ...]:
        """The guards; before they have reported their identities, the outer guard and its children."""
        if self.state.guards:
            return self.state.guards
        outer = self._guards.pid
        found = map(processes.read, (outer, *processes.children(outer)))
        return tuple(guard.identity for guard in found if guard)

    def _give_up_guards(self, _: GiveUpGuards) -> None:
        raise VllmMagicError(
            f"The guards (pid {self._guards.pid}) do not answer and cannot be killed. "
            "Their server may still run: see %vllm gpu."
        )


def _result(call: Future[_T], default: _T) -> tuple[_T, str]:
    """Return the result of a finished call and ""; after a fault, the default and the fault as text."""
    try:
        return call.result(), ""
    except Exception as error:  # noqa: BLE001 - a call that fails is no reason to end the server
        return default, faults.text(error)
