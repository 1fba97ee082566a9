"""The thread that starts one server, follows it, and proves its release."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.startup import log
from vllm_magic.errors import StartFailed, VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.guard import folder, record
from vllm_magic.guard.ladder import UNKNOWN_PID, Outcome
from vllm_magic.guard.protocol import Ended, Why
from vllm_magic.lifecycle import failure_cause, faults
from vllm_magic.lifecycle.events import Broken, NeverStarted, News, Notice, Over, StopPlan
from vllm_magic.lifecycle.idle_timeout import KEEP_ALIVE
from vllm_magic.lifecycle.monitor import Monitor
from vllm_magic.lifecycle.own_listener import OwnListener
from vllm_magic.lifecycle.state import StateMachine
from vllm_magic.linux import machine
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
    from vllm_magic.provisioning.base import Launched, Prepared, Provisioner
    from vllm_magic.release.result import Release

LOG_TAIL = 5000  # lines of the log that are searched for the cause of a failure: a crash writes many for each request in flight

REFUSED_HINT = "See whether vLLM runs at all, in a terminal: vllm --version"


class Supervisor:
    """A server's life, from `begin` to the last notice.

    Args:
        name: the name of the server.
        provisioner: makes the server, in this life's thread.
        probe: reads the GPUs.
        notice: called in this life's thread with each `Notice`; the last is `Over`, `NeverStarted` or `Broken`.
        ttl: seconds without a request after which the server is `Idle`; None for never.
        keep_alive: seconds for which the server leaves an idle connection open.
    """

    def __init__(
        self,
        name: str,
        provisioner: Provisioner,
        probe: Probe,
        notice: Callable[[Notice], None],
        ttl: float | None = None,
        keep_alive: float = KEEP_ALIVE,
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
        self._unproved: tuple[Prepared, Identity | None, Sequence[Ended | Outcome]] | None = None

    def begin(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        self._cancelled.wake.open()
        if not self._requests.empty():  # asked to stop before there was anything to wake
            self._cancelled.wake.set()
        try:
            self._thread.start()
        except RuntimeError:
            self._cancelled.wake.close()
            raise

    def stop(self, plan: StopPlan) -> None:
        """Ask for the release, from any thread, and return at once. A second call with less grace shortens the release."""
        self._requests.put(plan)
        self._cancelled.event.set()
        self._cancelled.wake.set()

    def again(self) -> None:
        """After an end that is not proved: end what is left, and prove the release again. A last notice follows, as before.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        threading.Thread(target=self._run_again, name=f"vllm-magic {self._name}", daemon=True).start()

    def _run(self) -> None:
        def live() -> Notice:
            try:
                return self._live()
            finally:
                self._cancelled.wake.close()

        self._tell_last(live)

    def _run_again(self) -> None:
        self._tell_last(self._end_again)

    def _tell_last(self, live: Callable[[], Notice]) -> None:
        try:
            last = live()
        except _NothingRanError as error:
            last = NeverStarted(error.reason)
        except VllmMagicError as error:
            last = Broken(error)
        except Exception as error:  # noqa: BLE001 - a waiting caller must hear of every fault, also of our own
            last = Broken(VllmMagicError(faults.told(error)))
        self._notice(last)

    def _notice(self, notice: Notice) -> None:
        """Tell a notice; a fault of who hears it is told too, and is no reason to end a server, or to leave one."""
        try:
            self._notify(notice)
        except Exception as error:  # noqa: BLE001 - see above
            with contextlib.suppress(Exception):
                self._notify(News(faults.told(error)))

    def _live(self) -> Notice:
        """Go from the launch to the end; return the end."""
        try:
            launched = self._launch()
        except VllmMagicError as error:
            raise _NothingRanError(error) from error
        if launched is None:
            return Over(nothing_to_release(self._name), Why.ASKED)
        return self._follow(launched.prepared, launched.guards)

    def _follow(self, prepared: Prepared, guards: Guards) -> Notice:
        """Follow a server to its end; return the end.

        A fault of our own on the way makes this release the server: the guards are killed, and it is ended from here.
        """
        with contextlib.ExitStack() as held:
            listener = OwnListener(prepared.address, prepared.port, lambda: monitor.state.leader)
            monitor = Monitor(
                StateMachine(prepared.first, self._ttl, self._keep_alive),
                prepared,
                guards,
                Api(self._provisioner.command.endpoint, listener.verify),
                self._requests,
                self._cancelled.wake,
                self._notice,
                held,
            )
            fault = ""
            try:
                monitor.run()
            except Exception as error:  # noqa: BLE001 - whatever it is, the server must not stay
                fault = faults.told(error)
                monitor.give_up()
            finally:
                guards.close()
            state = monitor.state
            if state.refused is not None:
                hint = ledger.MAKE_ROOM if state.refused.errno in NO_ROOM else REFUSED_HINT
                if state.refused.errno == errno.E2BIG:
                    hint = "A flag or an environment variable is longer than 128 KiB, or all together are too long"
                because = ". ".join(filter(None, (state.refused.text, monitor.disk)))
                raise _NothingRanError(StartFailed(f"vLLM could not be executed: {because}", hint))
            try:
                over = self._end(prepared, monitor, fault)
            except Exception as error:  # noqa: BLE001 - who stops the server again has another look
                fault = faults.told(error)
                self._unproved = prepared, state.leader, [*state.ended, Outcome([], [], 0.0)]
                began = state.began or time.monotonic()
                over = Over(report.unproved(self._name, state.why, began, fault.rstrip(".")), state.why)
            if fault and (
                over.why is not Why.FAULT or not over.release.verified
            ):  # its error does not tell it
                self._notice(News(fault))
            return over

    def _end(self, prepared: Prepared, monitor: Monitor, fault: str) -> Over:
        """Release the server if its guards did not, prove it, and find the cause; see `Over` for ``fault``."""
        state = monitor.state
        began = state.began or time.monotonic()
        leader = state.leader
        ended: list[Ended | Outcome] = [*state.ended]
        if fault or not ended:
            known = prepared.verifier.known
            before = record.read_existing_segments(str(prepared.folder.path))
            ended.append(force_kill.release(prepared.folder.mark, leader, before, known=known))
        over = self._conclude(prepared, leader, state.why, began, ended)
        over = replace(over, disk=monitor.disk, fault=fault)
        if monitor.disk:
            self._notice(News(f"{monitor.disk}: the log of {self._name} lacks its end."))
        if over.why is not Why.LEADER_ENDED:
            return over
        try:
            return replace(over, failure=self._cause(prepared, over.release, was_ready=state.is_ready))
        except Exception as error:  # noqa: BLE001 - the release is proved all the same
            self._notice(News(faults.told(error)))
            return over

    def _launch(self) -> Launched | None:
        """Release what others left, which may hold the memory that is needed, and launch the server.

        Raises:
            VllmMagicError: it cannot be started, and nothing of it is there.
        """

        def tell(text: str) -> None:
            self._notice(News(text))

        if self._provisioner.from_the_start:
            if problem := machine.proc_problem():  # what cannot be ended for certain is not started
                raise StartFailed(problem, machine.PROC_HINT)
            try:
                for swept in sweep(self._probe, with_clusters=False):
                    tell(swept.text)
            except OSError as error:
                raise unusable(error) from error
        return self._provisioner.launch(self._cancelled, tell)

    def _cause(self, prepared: Prepared, release: Release, *, was_ready: bool) -> Failure:
        paths = prepared.folder
        path = paths.log if release.left else paths.kept_log
        tail = log.tail(path, LOG_TAIL, prepared.secrets)
        return failure_cause.find(
            prepared, self._provisioner.command.argv[0], tail, release.exit_code, was_ready=was_ready
        )

    def _end_again(self) -> Notice:
        assert self._unproved is not None  # noqa: S101 - the end that was not proved has set it
        prepared, leader, before = self._unproved
        left = before[-1].left
        began = time.monotonic()
        with contextlib.ExitStack() as cleanup:
            with contextlib.suppress(OSError):
                cleanup.enter_context(locks.ReleaseLocks(prepared.gpus))
            known = [Identity(*row[:2]) for row in left]
            existing = record.read_existing_segments(str(prepared.folder.path))
            said = force_kill.release(prepared.folder.mark, leader, existing, known=known)
            there = [row[:2] for row in said.ended + said.left]
            gone = [row for row in left if row[:2] not in there and row[0] != UNKNOWN_PID]
            meanwhile = Outcome(gone, [], 0.0)
            said = said._replace(left=said.left + [row for row in left if row[0] == UNKNOWN_PID])
            earlier = [] if left else before  # if all had ended, those reports belong to this release too
            return self._conclude(prepared, leader, Why.ASKED, began, [*earlier, meanwhile, said])

    def _conclude(
        self,
        prepared: Prepared,
        leader: Identity | None,
        why: Why,
        began: float,
        ended: Sequence[Ended | Outcome],
    ) -> Over:
        """Clear the folder if nothing is left, prove the release, and return the end."""
        paths, files_left = prepared.folder, ""
        if not ended[-1].left:  # else the folder stays: it is the record of what is left
            # The guards clear the folder themselves, unless they are killed before that.
            files_left = folder.clear(*map(str, (paths.path, paths.tmp, paths.log, paths.kept_log)))
        record.add_known_processes(str(paths.path), ended[-1].left)
        released = report.release(self._name, why, began, ended, prepared.verifier, leader)
        unproved.update(leader, prepared.verifier, released)
        released = replace(released, files_left=files_left)
        if released.left or released.unseen:
            self._unproved = prepared, leader, ended
        return Over(released, why)


class _NothingRanError(Exception):
    """The start ended before the server had a process."""

    def __init__(self, reason: VllmMagicError) -> None:
        super().__init__(str(reason))
        self.reason = reason
