"""Where one server is in its life: one frozen picture, and what each notice and each request makes of it.

::

    starting ──► ready ──► stopping ──► released
        │          │           │
        └──────────┴───────────┴──────► failed

A ready server whose Ray cluster does not answer is called unreachable while that lasts; nothing else changes.
Once a server is released or failed, nothing of it is left, or the error says what is.

Nothing here has a clock or waits: `lifecycle.Lifecycle` holds the picture and says the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle.events import (
    Ending,
    EngineDied,
    LeaderStarted,
    NeverStarted,
    Over,
    ProgressChanged,
    Ready,
    SupervisorFailed,
)
from vllm_magic.release import report
from vllm_magic.release.result import nothing_to_release

if TYPE_CHECKING:
    from collections.abc import Mapping

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

    Each method returns the next status; ``at`` is the time in seconds since the epoch.

    Attributes:
        server: the name of the server.
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
        is_stop_requested: whether somebody has asked for the end.
        is_engine_dead: whether vLLM's HTTP server goes on without its engine.
        is_error_unreported: whether it failed, and nobody was told why.
    """

    server: str
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
    is_stop_requested: bool = False
    is_engine_dead: bool = False
    is_error_unreported: bool = False

    @property
    def is_left(self) -> bool:
        """Whether its release is over, and processes of it live on that SIGKILL did not end."""
        return self.state.over and self.release is not None and bool(self.release.left)

    @property
    def is_unseen(self) -> bool:
        """Whether its release is over and not proved, and another look may find it otherwise."""
        return self.state.over and self.release is not None and self.release.unseen

    def requested_to_stop(self, at: float) -> LifecycleStatus:
        """Somebody asks for the end; of a server that is over nothing changes."""
        return self if self.state.over else self.reopened(at)

    def reopened(self, at: float) -> LifecycleStatus:
        """Somebody asks for the end of what a release that is over has left."""
        return self._entered(ServerState.STOPPING, at, is_stop_requested=True)

    def given_up(self, at: float) -> LifecycleStatus:
        """The end that was asked for once more could not even begin."""
        return self._entered(ServerState.FAILED, at)

    def with_error_reported(self) -> LifecycleStatus:
        """Somebody was told why it failed, if it did."""
        return replace(self, is_error_unreported=False)

    def after(self, notice: Notice, at: float, seconds: float) -> LifecycleStatus:
        """A notice came, ``seconds`` after the start was asked for."""
        after = self
        match notice:
            case LeaderStarted():
                after = replace(
                    self,
                    folder=notice.folder,
                    leader=notice.leader,
                    kind=notice.kind,
                    cold_because=notice.cold_because,
                )
            case ProgressChanged():
                after = replace(self, progress=notice.progress)
            case Ready() if self.state is ServerState.STARTING:
                after = self._entered(ServerState.READY, at, progress=READY, ready_after=seconds)
            case EngineDied():
                after = replace(self, is_engine_dead=True)
            case Ending():
                after = self._entered(ServerState.STOPPING, at)
            case NeverStarted():
                after = self._failed(notice.error, nothing_to_release(self.server), at)
            case SupervisorFailed():
                after = self._failed(notice.error, self.release, at)
            case Over():
                after = self._ended(notice, at)
        return after

    def _ended(self, over: Over, at: float) -> LifecycleStatus:
        error = report.error(
            over.release,
            over.why,
            over.failure,
            over.disk,
            asked=self.is_stop_requested,
            was_ready=self.ready_after is not None,
            fault=over.fault,
        )
        if error is None:
            return self._entered(ServerState.RELEASED, at, release=over.release)
        return self._failed(error, over.release, at, was_idle=over.why is Why.IDLE)

    def _failed(
        self, error: VllmMagicError, release: Release | None, at: float, *, was_idle: bool = False
    ) -> LifecycleStatus:
        # Whoever asked for the end waits for it, and hears of the error there; nobody waits for the end of an idle server.
        is_unheard = not self.is_stop_requested or was_idle
        return self._entered(
            ServerState.FAILED, at, error=error, release=release, is_error_unreported=is_unheard
        )

    def _entered(self, state: ServerState, at: float, **fields: Any) -> LifecycleStatus:
        times = self.times if state is self.state else {**self.times, state: at}
        return replace(self, state=state, times=times, **fields)
