"""Where one server is in its life: a state machine behind one lock.

::

    starting ──► ready ──► stopping ──► released
        │          │           │
        └──────────┴───────────┴──────► failed

A ready one whose Ray cluster does not answer is called unreachable as long as that lasts; the rest of its life goes on.
Whatever the state, once it is released or failed nothing of the server is left, or the error says what is.

What is known is one frozen `LifecycleStatus`, replaced as a whole: whoever reads it needs no lock and sees one moment.
The lock guards the change from one to the next; it is never held while anything blocks but the wait for a change.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle.events import Broken, Ending, LeaderStarted, Moved, NeverStarted, Over, Ready
from vllm_magic.release import report
from vllm_magic.release.result import nothing_to_release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.startup.estimate import Estimate, Pace
    from vllm_magic.errors import VllmMagicError
    from vllm_magic.ledger import Folder
    from vllm_magic.lifecycle.events import Notice
    from vllm_magic.linux.processes import Identity
    from vllm_magic.provisioning.base import StartKind
    from vllm_magic.release.result import Release


QUEUED = Progress(Stage.QUEUED)
READY = Progress(Stage.READY)


class ServerState(str, Enum):
    """Where a server is in its life."""

    STARTING = "starting"
    READY = "ready"
    UNREACHABLE = "unreachable"
    STOPPING = "stopping"
    RELEASED = "released"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether this is the end."""
        return self in (ServerState.RELEASED, ServerState.FAILED)

    @property
    def runs(self) -> bool:
        """Whether it has become ready, and nothing of its end is known."""
        return self in (ServerState.READY, ServerState.UNREACHABLE)


@dataclass(frozen=True)
class LifecycleStatus:
    """What is known of a server at one moment.

    Attributes:
        state: where it is.
        progress: the stage of its start.
        folder: its private folder; None before there is one.
        leader: its first process; None before it runs.
        kind: how it began; None before it runs.
        cold_because: why no spare became it; "" where one did, or none was to be had.
        ready_after: seconds from the request to ready; None before that.
        release: what its end did; None before that.
        error: why it failed; None unless it did.
        times: when each state was entered, in seconds since the epoch; of one that was entered twice the last time.
    """

    state: ServerState = ServerState.STARTING
    progress: Progress = QUEUED
    folder: Folder | None = None
    leader: Identity | None = None
    kind: StartKind | None = None
    cold_because: str = ""
    ready_after: float | None = None
    release: Release | None = None
    error: VllmMagicError | None = None
    times: Mapping[ServerState, float] = field(default_factory=dict)

    @property
    def is_left(self) -> bool:
        """Whether its release is over, and processes of it live on that SIGKILL did not end."""
        return self.state.over and self.release is not None and bool(self.release.left)

    @property
    def is_unseen(self) -> bool:
        """Whether its release is over and not proved, and another look may find it otherwise."""
        return self.state.over and self.release is not None and self.release.unseen


class Lifecycle:
    """The states that one server goes through. Safe to use from any thread.

    Args:
        server: its name.
        pace: of its start.
    """

    def __init__(self, server: str, pace: Pace) -> None:
        self._server = server
        self._pace = pace
        self._began = time.monotonic()
        self._changed = threading.Condition()  # guards all below, and the pace
        self._now = LifecycleStatus(times={ServerState.STARTING: time.time()})
        self._asked = False  # for the end
        self._unheard = False  # a failure that nobody was told of

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
        """Return when the condition holds; False where it does not after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: condition(self._now), None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
            )

    def go_by(self, pace: Pace) -> None:
        """Another pace is that of this start."""
        with self._changed:
            pace.move(self._now.progress)
            self._pace = pace

    def ask(self) -> None:
        """Somebody has asked for the end."""
        with self._changed:
            if not self._now.state.over:
                self._asked = True
                self._change(state=ServerState.STOPPING)

    def reopen(self) -> bool:
        """Somebody asks for the end of what the release left; False where another thread was faster."""
        with self._changed:
            if not self._now.state.over:
                return False
            self._asked = True
            self._change(state=ServerState.STOPPING)
            return True

    def give_up(self) -> None:
        """The end that was asked for once more could not even begin."""
        with self._changed:
            self._change(state=ServerState.FAILED)

    def hear(self) -> VllmMagicError | None:
        """Why it failed, for somebody who tells it; None where that is known, or was told before."""
        with self._changed:
            unheard, self._unheard = self._unheard, False
            return self._now.error if unheard else None

    def take(self, notice: Notice) -> None:
        """Go on to what a life tells."""
        with self._changed:
            if isinstance(notice, LeaderStarted):
                self._change(
                    folder=notice.folder,
                    leader=notice.leader,
                    kind=notice.kind,
                    cold_because=notice.cold_because,
                )
            elif isinstance(notice, Moved):
                self._pace.move(notice.progress)
                self._change(progress=notice.progress)
            elif isinstance(notice, Ready) and self._now.state is ServerState.STARTING:
                self._pace.move(READY)
                self._change(state=ServerState.READY, progress=READY, ready_after=self.seconds)
            elif isinstance(notice, Ending):
                self._change(state=ServerState.STOPPING)
            elif isinstance(notice, NeverStarted):
                self._fail(notice.error, nothing_to_release(self._server), asked=self._asked)
            elif isinstance(notice, Broken):
                self._fail(notice.error, self._now.release, asked=self._asked)
            elif isinstance(notice, Over):
                self._end(notice)

    def _end(self, over: Over) -> None:
        was_ready = self._now.ready_after is not None
        error = report.error(
            over.release,
            over.why,
            over.failure,
            over.disk,
            asked=self._asked,
            was_ready=was_ready,
            fault=over.fault,
        )
        if error is None:
            self._change(state=ServerState.RELEASED, release=over.release)
        else:
            self._fail(error, over.release, asked=self._asked and over.why is not Why.IDLE)

    def _fail(self, error: VllmMagicError, release: Release | None, *, asked: bool) -> None:
        self._unheard = not asked  # who asks for the end waits for it
        self._change(state=ServerState.FAILED, error=error, release=release)

    def _change(self, state: ServerState | None = None, **fields: object) -> None:
        if state is not None and state is not self._now.state:
            fields |= {"state": state, "times": {**self._now.times, state: time.time()}}
        self._now = replace(self._now, **fields)  # type: ignore[arg-type]
        self._changed.notify_all()
