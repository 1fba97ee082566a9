"""The thread that starts one server, follows it, and proves its release."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.startup import log
from vllm_magic.errors import StartFailed, VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.guard.ladder import UNKNOWN_PID, Outcome
from vllm_magic.guard.protocol import Ended, Why
from vllm_magic.lifecycle import failure_cause, faults, retry
from vllm_magic.lifecycle.events import (
    Ending,
    NeverStarted,
    News,
    Notice,
    Over,
    Ready,
    StartRepeated,
    StopPlan,
    SupervisorFailed,
)
from vllm_magic.lifecycle.monitor import Monitor
from vllm_magic.lifecycle.own_listener import OwnListener
from vllm_magic.lifecycle.state import START_LIMIT, StateMachine
from vllm_magic.linux import machine, memory
from vllm_magic.linux.eventfd import Cancellation
from vllm_magic.linux.files import NO_ROOM
from vllm_magic.linux.processes import Identity
from vllm_magic.provisioning.launch import unusable
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release import force_kill, report, unproved
from vllm_magic.release.result import nothing_to_release

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.guard.protocol import Refused
    from vllm_magic.lifecycle.state import MonitorState
    from vllm_magic.provisioning.base import Launched, Prepared, Provisioner
    from vllm_magic.release.result import Release

LOG_TAIL = 5000  # lines of the log that are searched for the cause of a failure: a crash writes many for each request in flight
REFUSED_HINT = "See whether vLLM runs at all, in a terminal: vllm --version"


@dataclass(frozen=True)
class _EndedServer:
    """A server whose processes were ended, as far as they can be.

    Attributes:
        prepared: the server.
        leader: its first process, or None.
        reports: the reports of the guards, or of `force_kill.kill_server`; the last one has the processes that are left.
    """

    prepared: Prepared
    leader: Identity | None
    reports: Sequence[Ended | Outcome]


class Supervisor:
    """Runs the one thread of a server, from `begin` to the last notice.

    Args:
        name: the name of the server.
        provisioner: makes the server, in this thread.
        probe: reads the GPUs.
        notice: called in this thread with each `Notice`; the last is `Over`, `NeverStarted` or `SupervisorFailed`.
        ttl: seconds without a request after which the server is `Idle`; None for never.
        keep_alive: seconds for which the server leaves an idle connection open.
    """

    def __init__(
        self,
        name: str,
        provisioner: Provisioner,
        probe: Probe,
        notice: Callable[[Notice], None],
        ttl: float | None,
        keep_alive: float,
    ) -> None:
        self._name = name
        self._provisioner = provisioner
        self._probe = probe
        self._notify = notice
        self._ttl = ttl
        self._keep_alive = keep_alive
        self._requests: queue.SimpleQueue[StopPlan] = queue.SimpleQueue()
        self._cancelled = Cancellation()
        self._thread = threading.Thread(target=self._run, name=f"vllm-magic {name}", daemon=True)
        self._unproved: _EndedServer | None = None  # the server after a release that was not proved
        self._oom_kills_before = 0

    def begin(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        self._cancelled.wake.open()
        if not self._requests.empty():  # a stop came before there was a thread to wake
            self._cancelled.wake.set()
        try:
            self._thread.start()
        except RuntimeError:
            self._cancelled.wake.close()
            raise

    def stop(self, plan: StopPlan) -> None:
        """Request the release, from any thread, and return at once. `state` says what a later request changes."""
        self._requests.put(plan)
        self._cancelled.event.set()
        self._cancelled.wake.set()

    def release_again(self) -> None:
        """After a release that is not proved: end the processes that are left, and prove the release again.

        The last notice is the same as after `begin`.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        threading.Thread(target=self._run_again, name=f"vllm-magic {self._name}", daemon=True).start()

    def _run(self) -> None:
        self._oom_kills_before = memory.oom_kills()

        def live() -> Notice:
            try:
                return self._live()
            finally:
                self._cancelled.wake.close()

        self._notify_last(live)

    def _run_again(self) -> None:
        self._notify_last(self._end_again)

    def _notify_last(self, live: Callable[[], Notice]) -> None:
        """Report the last notice: the one that ``live`` returns, or the error that it raises."""
        try:
            last = live()
        except _NothingRanError as error:
            last = NeverStarted(error.reason)
        except VllmMagicError as error:
            last = SupervisorFailed(error)
        except Exception as error:  # noqa: BLE001 - a waiting caller must get every error
            last = SupervisorFailed(VllmMagicError(faults.text(error)))
        self._notice(last)

    def _notice(self, notice: Notice) -> None:
        """Report a notice. A fault of the callee is reported too, and the server is followed all the same."""
        try:
            self._notify(notice)
        except Exception as error:  # noqa: BLE001 - see above
            with contextlib.suppress(Exception):
                self._notify(News(faults.text(error)))

    def _live(self, *, is_repeated: bool = False) -> Notice:
        """Launch the server, follow it to its end, and return its last notice.

        A start that fails for a reason that has passed is repeated once (`retry`).

        Raises:
            _NothingRanError: the server never had a process.
        """
        try:
            launched = self._launch()
        except VllmMagicError as error:
            raise _NothingRanError(error) from error
        if launched is None:
            return Over(nothing_to_release(self._name), Why.ASKED)
        if is_repeated or not self._provisioner.from_the_start:
            return self._follow(launched, self._notice)
        attempt = _FirstAttempt(self._notice)
        over = self._follow(launched, attempt.notice)
        stopped = self._cancelled.event.is_set()
        if over.failure and retry.is_due(over, was_ready=attempt.was_ready, is_stop_requested=stopped):
            self._notice(StartRepeated(over.failure.cause))
            return self._live(is_repeated=True)
        attempt.deliver()
        return over

    def _launch(self) -> Launched | None:
        """Release what dead kernels left, which may hold the memory that the server needs, and launch the server.

        Raises:
            VllmMagicError: the server cannot be started; no process or file of it is left.
        """

        def news(text: str) -> None:
            self._notice(News(text))

        if self._provisioner.from_the_start:
            problem = machine.proc_problem()
            if problem:  # with such a /proc, the end of the server would not be certain
                raise StartFailed(problem, machine.PROC_HINT)
            try:
                for swept in sweep(self._probe):
                    news(swept.text)
            except OSError as error:
                raise unusable(error) from error
        return self._provisioner.launch(self._cancelled, news)

    def _follow(self, launched: Launched, notice: Callable[[Notice], None]) -> Over:
        """Follow a server to its end, and prove its release.

        Args:
            launched: the server.
            notice: called with each notice of the monitor.

        Raises:
            _NothingRanError: the leader could not be executed.
        """
        prepared, guards = launched.prepared, launched.guards
        with contextlib.ExitStack() as held:  # holds the locks of the GPUs until the release is proved
            listener = OwnListener(prepared.address, prepared.port, lambda: monitor.state.leader)
            monitor = Monitor(
                StateMachine(prepared.first, self._ttl, self._keep_alive),
                prepared,
                guards,
                Api(self._provisioner.command.endpoint, listener.verify),
                self._requests,
                self._cancelled.wake,
                notice,
                held,
            )
            fault = _watch(monitor, guards)
            if monitor.state.is_start_overdue:
                fault = fault or _overdue(guards.pid)
            if monitor.state.refused is not None:
                raise _NothingRanError(_refusal(monitor.state.refused, monitor.disk))
            try:
                over = self._end(prepared, monitor, fault)
            except Exception as error:  # noqa: BLE001 - another stop tries again
                fault = faults.text(error)
                over = self._unknown_end(prepared, monitor.state, fault)
            # The error of the end reports the fault then.
            is_reported = over.why in (Why.FAULT, Why.GUARD_GONE) and over.release.verified
            if fault and not is_reported:
                self._notice(News(fault))
            return over

    def _end(self, prepared: Prepared, monitor: Monitor, fault: str) -> Over:
        """Release the server if its guards did not, prove the release, and find the cause of the end.

        Args:
            prepared: the server.
            monitor: the monitor that has followed the server.
            fault: the fault of vllm_magic that ended the monitor, as text; "" for none.
        """
        state = monitor.state
        began = state.began or time.monotonic()
        reports: list[Ended | Outcome] = [*state.ended]
        if not reports:
            reports.append(force_kill.kill_server(prepared.folder, state.leader, prepared.verifier.known))
        over = self._prove(_EndedServer(prepared, state.leader, reports), state.why, began)
        over = replace(over, disk=monitor.disk, fault=fault)
        if over.disk:
            self._notice(News(f"{over.disk}: the log of {self._name} lacks its end."))
        if over.why is Why.LEADER_ENDED:
            try:
                return replace(over, failure=self._cause(prepared, over.release, was_ready=state.is_ready))
            except Exception as error:  # noqa: BLE001 - the release is proved all the same
                self._notice(News(faults.text(error)))
        return over

    def _cause(self, prepared: Prepared, release: Release, *, was_ready: bool) -> Failure:
        """Return why the leader ended by itself."""
        paths = prepared.folder
        path = paths.log if release.left else paths.kept_log
        tail = log.tail(path, LOG_TAIL, prepared.secrets)
        return failure_cause.find(
            prepared,
            self._provisioner.command.argv[0],
            tail,
            release.exit_code,
            was_ready=was_ready,
            oom_kills_before=self._oom_kills_before,
        )

    def _unknown_end(self, prepared: Prepared, state: MonitorState, fault: str) -> Over:
        """Return the last notice after a fault in `_end`: nothing is proved, and another stop tries again."""
        self._unproved = _EndedServer(prepared, state.leader, [*state.ended, Outcome([], [], 0.0)])
        began = state.began or time.monotonic()
        return Over(report.without_proof(self._name, state.why, began, fault.rstrip(".")), state.why)

    def _end_again(self) -> Over:
        """Kill the processes that the last attempt has left, and prove the release again."""
        before = self._unproved
        assert before is not None  # noqa: S101 - `_prove` or `_unknown_end` has set it
        began = time.monotonic()
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                held.enter_context(locks.ReleaseLocks(before.prepared.gpus))
            return self._prove(_killed_again(before), Why.ASKED, began)

    def _prove(self, server: _EndedServer, why: Why, began: float) -> Over:
        """Clear the folder if no process is left, prove the release, and return the last notice."""
        prepared, left = server.prepared, server.reports[-1].left
        files_left = ""
        if not left:  # otherwise the folder stays: its record names the processes that are left
            # The guards clear the folder themselves, unless they were killed before that.
            files_left = prepared.folder.clear()
        ledger.add_known_processes(prepared.folder.path, left)
        released = report.release(self._name, why, began, server.reports, prepared.verifier, server.leader)
        unproved.update(server.leader, prepared.verifier, released)
        released = replace(released, files_left=files_left)
        if released.left or released.may_recheck:
            self._unproved = server
        return Over(released, why)


def _watch(monitor: Monitor, guards: Guards) -> str:
    """Run the monitor until the guards are gone.

    Returns:
        The fault of vllm_magic that ended the monitor, as text; "" for none. After a fault the guards may have been killed,
        and the server may still run.
    """
    try:
        monitor.run()
    except Exception as error:  # noqa: BLE001 - after any error the server must be released
        monitor.give_up()
        return faults.text(error)
    finally:
        guards.close()
    return ""


def _killed_again(before: _EndedServer) -> _EndedServer:
    """Send SIGKILL to the processes that are left of a server; return the server with all reports of its release."""
    left = before.reports[-1].left  # rows of [pid, start, name, how]
    known = [Identity(*row[:2]) for row in left]
    outcome = force_kill.kill_server(before.prepared.folder, before.leader, known)
    reported = [row[:2] for row in outcome.ended + outcome.left]
    unknown = [row for row in left if row[0] == UNKNOWN_PID]  # a process that is left and cannot be found
    gone = [row for row in left if row[:2] not in reported and row not in unknown]
    meanwhile = Outcome(gone, [], 0.0)
    outcome = outcome._replace(left=outcome.left + unknown)
    earlier = [] if left else before.reports  # if all had ended, those reports belong to this release too
    return replace(before, reports=[*earlier, meanwhile, outcome])


def _refusal(refused: Refused, disk: str) -> StartFailed:
    """Return the error for a leader that could not be executed; ``disk`` as in `Over`."""
    hint = ledger.MAKE_ROOM if refused.errno in NO_ROOM else REFUSED_HINT
    if refused.errno == errno.E2BIG:
        hint = "A flag or an environment variable is longer than 128 KiB, or all together are too long"
    because = ". ".join(filter(None, (refused.text, disk)))
    return StartFailed(f"vLLM could not be executed: {because}", hint)


def _overdue(outer: int) -> str:
    return (
        f"The guards (pid {outer}) did not start the server within {START_LIMIT:g} s and were killed: a signal had stopped them, "
        f"or the disk of {ledger.state_path()} or the machine is too slow."
    )


class _FirstAttempt:
    """Passes on the notices of the first attempt to start a server.

    If a server that was never ready ends, `Ending` is held back, because the start may be repeated: a caller that waits
    for the server would take `Ending` for the end of the start.

    Args:
        notice: called with the notices.
    """

    def __init__(self, notice: Callable[[Notice], None]) -> None:
        self._pass_on = notice
        self._held: list[Ending] = []
        self.was_ready = False

    def notice(self, notice: Notice) -> None:
        """Pass a notice on, or hold it back."""
        self.was_ready |= isinstance(notice, Ready)
        if isinstance(notice, Ending) and notice.why is Why.LEADER_ENDED and not self.was_ready:
            self._held.append(notice)
        else:
            self._pass_on(notice)

    def deliver(self) -> None:
        """Pass on what was held back."""
        for notice in self._held:
            self._pass_on(notice)


class _NothingRanError(Exception):
    """The start ended before the server had a process."""

    def __init__(self, reason: VllmMagicError) -> None:
        super().__init__(str(reason))
        self.reason = reason
