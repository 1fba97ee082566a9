"""The thread that goes through a server's life."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.engine import log
from vllm_magic.engine.api import Api
from vllm_magic.errors import StartFailed, VllmMagicError
from vllm_magic.guard import folder
from vllm_magic.guard.protocol import Ended, Why
from vllm_magic.life import outcome, rescue
from vllm_magic.life.attendance import Attendance
from vllm_magic.life.idle import Idleness
from vllm_magic.life.notices import Broken, NeverStarted, Notice, Over, StopPlan
from vllm_magic.release import nothing_to_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.command import Command
    from vllm_magic.guard.ladder import Outcome
    from vllm_magic.life.beginning import Attached, Fresh
    from vllm_magic.life.preparation import Prepared

LOG_TAIL = 400  # lines in which the cause of a failure is looked for


class Life:
    """A server's life, from `begin` to the last notice.

    Args:
        name: of the server.
        command: how it is reached.
        beginning: starts it, or takes it over; called in this life's thread.
        notice: called in this life's thread with each `Notice`; the last is `Over`, `NeverStarted` or `Broken`.
        ttl: seconds without a request after which it is `Idle`; None for never.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        beginning: Fresh | Attached,
        notice: Callable[[Notice], None],
        ttl: float | None = None,
    ) -> None:
        self._name = name
        self._command = command
        self._beginning = beginning
        self._notice = notice
        self._ttl = ttl
        self._requests: queue.SimpleQueue[StopPlan] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._wake = _EventFd()
        self._thread = threading.Thread(target=self._run, name=f"vllm-magic {name}", daemon=True)

    def begin(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the kernel has none for it.
        """
        self._wake.open()
        if not self._requests.empty():  # asked to stop before there was anything to wake
            self._wake.set()
        try:
            self._thread.start()
        except RuntimeError:
            self._wake.close()
            raise

    def stop(self, plan: StopPlan) -> None:
        """Ask for the release, from any thread; asked again with less grace, it hurries. Returns at once."""
        self._requests.put(plan)
        self._cancelled.set()
        self._wake.set()

    def _run(self) -> None:
        try:
            last = self._live()
        except _NothingRanError as error:
            last = NeverStarted(error.reason)
        except VllmMagicError as error:
            last = Broken(error)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of any fault, ours too
            last = Broken(
                VllmMagicError(f"A fault of vllm_magic: {type(error).__name__}: {error}. Please report it.")
            )
        finally:
            self._wake.close()
        self._notice(last)

    def _live(self) -> Notice:
        try:
            begun = self._beginning(self._cancelled, self._notice)
        except VllmMagicError as error:
            raise _NothingRanError(error) from error
        if begun is None:
            return Over(nothing_to_release(self._name), Why.ASKED, ())
        prepared, guards = begun
        api = Api(self._command)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(api.close)
            idleness = Idleness(self._ttl) if self._ttl is not None else None
            attendance = Attendance(
                prepared, guards, api, self._requests, self._wake.fileno(), self._notice, idleness
            )
            try:
                attendance.run(cleanup)
            finally:
                guards.close()
            if attendance.refused is not None:
                refused = StartFailed(
                    f"vLLM could not be executed: {attendance.refused.text}", "Check %vllm start"
                )
                raise _NothingRanError(refused)
            return self._conclude(prepared, attendance)

    def _conclude(self, prepared: Prepared, attendance: Attendance) -> Over:
        """The release: what the guards said, what had to be done in their place, and the proof of both."""
        rooms = prepared.folder
        ended: list[Ended | Outcome] = [*attendance.ended]
        if not ended:
            ended = [rescue.release(rooms.mark, attendance.leader, prepared.since)]
        # There still, if the guards were killed at the very end.
        folder.clear(*map(str, (rooms.path, rooms.tmp, rooms.log, rooms.kept_log)))
        began = attendance.began or time.monotonic()
        release = outcome.release(
            self._name, attendance.why, began, ended, prepared.witness, attendance.leader
        )
        said = log.tail(rooms.kept_log, LOG_TAIL, prepared.secrets)
        return Over(release, attendance.why, tuple(said))


class _NothingRanError(Exception):
    """The start ended before a process of the server was there."""

    def __init__(self, reason: VllmMagicError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _EventFd:
    """An eventfd(2) that any thread may set, also while it is closed; a life that never begins has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None

    def open(self) -> None:
        with self._lock:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        assert self._fd is not None  # noqa: S101 - only polled while it is open
        return self._fd

    def set(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
