"""The status of one server, which any thread may read, change or wait for.

The status is a frozen `LifecycleStatus`, and each change replaces it as a whole. So a reader needs no lock, and all its
fields are of the same moment. The lock guards the change from one status to the next; nothing blocks while it is held.

The main thread never holds the lock (`background.with_lock`): a signal handler of the program may interrupt the main thread and
wait for the end of the server, and the supervisor's thread needs the lock for that.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from vllm_magic import background
from vllm_magic.lifecycle.status import LifecycleStatus, ServerState
from vllm_magic.linux.forks import ForkLock
from vllm_magic.linux.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.startup.estimate import Estimate, Pace
    from vllm_magic.engine.startup.stages import Stage
    from vllm_magic.errors import VllmMagicError
    from vllm_magic.lifecycle.events import Notice


class Lifecycle:
    """The states that one server goes through. Safe to use from any thread.

    Args:
        server: the name of the server.
        pace: estimates the progress of the start.
    """

    def __init__(self, server: str, pace: Pace) -> None:
        self._pace = pace
        self._began = time.monotonic()
        self._lock = ForkLock()  # guards all below, and the pace
        self._changed = Latch()  # set at the next change, and replaced by a new latch then
        self._now = LifecycleStatus(server, times={ServerState.STARTING: time.time()})

    @property
    def now(self) -> LifecycleStatus:
        """The present status."""
        return self._now

    @property
    def seconds(self) -> float:
        """The seconds since the start was requested."""
        return time.monotonic() - self._began

    def estimate(self) -> Estimate:
        """Return the progress of the start."""
        return background.with_lock(self._lock, lambda: self._pace.estimate(self._now.progress))

    def stages(self) -> dict[Stage, float]:
        """Return the seconds of each stage of the start so far; see `Pace.taken`."""
        return background.with_lock(self._lock, lambda: self._pace.taken())  # noqa: PLW0108 - the pace may change meanwhile

    def wait_for(self, condition: Callable[[LifecycleStatus], bool], timeout: float | None = None) -> bool:
        """Wait until the condition is true, and return True; return False after ``timeout`` seconds."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            changed = self._changed  # read before the status, so that no change is missed
            if condition(self._now):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            changed.wait(left)

    def set_pace(self, pace: Pace) -> None:
        """Estimate this start by another pace."""

        def change() -> None:
            pace.move(self._now.progress)
            self._pace = pace

        background.with_lock(self._lock, change)

    def request_stop(self) -> None:
        """Record that a stop was requested."""
        background.with_lock(self._lock, lambda: self._change(self._now.requested_to_stop(time.time())))

    def reopen(self) -> bool:
        """Record that a stop was requested after an unproved release; return False if another thread was faster."""

        def change() -> bool:
            if not self._now.state.over:
                return False
            self._change(self._now.reopened(time.time()))
            return True

        return background.with_lock(self._lock, change)

    def give_up(self) -> None:
        """Record that the stop after `reopen` could not begin."""
        background.with_lock(self._lock, lambda: self._change(self._now.given_up(time.time())))

    def report_error(self) -> VllmMagicError | None:
        """Return the error of a failed server, for a caller that reports it; None if there is none, or it was reported before."""

        def change() -> VllmMagicError | None:
            before = self._now
            self._now = before.with_error_reported()
            return before.error if before.is_error_unreported else None

        return background.with_lock(self._lock, change)

    def take(self, notice: Notice) -> None:
        """Change the status by a notice of the supervisor."""

        def change() -> None:
            after = self._now.after(notice, time.time(), self.seconds)
            self._pace.move(after.progress)
            self._change(after)

        background.with_lock(self._lock, change)

    def _change(self, status: LifecycleStatus) -> None:
        self._now = status
        changed, self._changed = self._changed, Latch()
        changed.set()
