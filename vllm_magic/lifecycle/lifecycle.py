"""The status of one server behind one lock: any thread reads it, changes it, or waits for a change.

The status is a frozen `LifecycleStatus`, replaced as a whole: whoever reads it needs no lock and sees one moment.
The lock guards the change from one status to the next; only the wait for a change blocks while it is held, and gives it back.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.lifecycle.status import LifecycleStatus, ServerState

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
        self._changed = threading.Condition()  # guards all below, and the pace
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
        with self._changed:
            return self._pace.estimate(self._now.progress)

    def stages(self) -> dict[Stage, float]:
        """Seconds of each stage of the start so far; see `Pace.taken`."""
        with self._changed:
            return self._pace.taken()

    def wait_for(self, condition: Callable[[LifecycleStatus], bool], timeout: float | None = None) -> bool:
        """Return True when the condition holds; False if it does not after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: condition(self._now), None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
            )

    def go_by(self, pace: Pace) -> None:
        """Estimate this start by another pace."""
        with self._changed:
            pace.move(self._now.progress)
            self._pace = pace

    def ask(self) -> None:
        """Note that somebody has asked for the end."""
        with self._changed:
            self._change(self._now.requested_to_stop(time.time()))

    def reopen(self) -> bool:
        """Note that somebody asks for the end of what the release left; False if another thread was faster."""
        with self._changed:
            if not self._now.state.over:
                return False
            self._change(self._now.reopened(time.time()))
            return True

    def give_up(self) -> None:
        """Note that the end that was asked for once more could not even begin."""
        with self._changed:
            self._change(self._now.given_up(time.time()))

    def hear(self) -> VllmMagicError | None:
        """Return why the server failed, for somebody who tells it; None if it did not, or if that was told before."""
        with self._changed:
            before = self._now
            self._now = before.heard()
            return before.error if before.is_error_unheard else None

    def take(self, notice: Notice) -> None:
        """Take in a notice of the supervisor."""
        with self._changed:
            after = self._now.after(notice, time.time(), self.seconds)
            self._pace.move(after.progress)
            self._change(after)

    def _change(self, status: LifecycleStatus) -> None:
        self._now = status
        self._changed.notify_all()
