"""The status of one server behind one lock: any thread reads it, changes it, or waits for a change.

The status is a frozen `LifecycleStatus`, replaced as a whole: whoever reads it needs no lock and sees one moment.
The lock guards the change from one status to the next; nothing blocks while it is held.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.lifecycle.status import LifecycleStatus, ServerState
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
        server: its name.
        pace: of its start.
    """

    def __init__(self, server: str, pace: Pace) -> None:
        self._pace = pace
        self._began = time.monotonic()
        self._lock = threading.RLock()  # guards all below, and the pace
        self._changed = Latch()  # set at the next change, which makes another one
        self._now = LifecycleStatus(server, times={ServerState.STARTING: time.time()})

    @property
    def now(self) -> LifecycleStatus:
        """What is known at this moment."""
        return self._now

    @property
    def seconds(self) -> float:
        """Since the start was asked for."""
        return time.monotonic() - self._began

    def estimate(self) -> Estimate:
        """How far the start is, in shares of its time."""
        with self._lock:
            return self._pace.estimate(self._now.progress)

    def stages(self) -> dict[Stage, float]:
        """Seconds of each stage of the start so far; see `Pace.taken`."""
        with self._lock:
            return self._pace.taken()

    def wait_for(self, condition: Callable[[LifecycleStatus], bool], timeout: float | None = None) -> bool:
        """Return True when the condition holds; False if it does not after ``timeout`` seconds."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            changed = self._changed  # read before the status, so that no change is missed
            if condition(self._now):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            changed.wait(left)

    def go_by(self, pace: Pace) -> None:
        """Estimate this start by another pace."""
        with self._lock:
            pace.move(self._now.progress)
            self._pace = pace

    def ask(self) -> None:
        """Note that somebody has asked for the end."""
        with self._lock:
            self._change(self._now.requested_to_stop(time.time()))

    def reopen(self) -> bool:
        """Note that somebody asks for the end of what the release left; False if another thread was faster."""
        with self._lock:
            if not self._now.state.over:
                return False
            self._change(self._now.reopened(time.time()))
            return True

    def give_up(self) -> None:
        """Note that the end that was asked for once more could not even begin."""
        with self._lock:
            self._change(self._now.given_up(time.time()))

    def report_error(self) -> VllmMagicError | None:
        """Return why the server failed, for somebody who tells it; None if it did not, or if that was told before."""
        with self._lock:
            before = self._now
            self._now = before.with_error_reported()
            return before.error if before.is_error_unreported else None

    def take(self, notice: Notice) -> None:
        """Take in a notice of the supervisor."""
        with self._lock:
            after = self._now.after(notice, time.time(), self.seconds)
            self._pace.move(after.progress)
            self._change(after)

    def _change(self, status: LifecycleStatus) -> None:
        self._now = status
        changed, self._changed = self._changed, Latch()
        changed.set()
