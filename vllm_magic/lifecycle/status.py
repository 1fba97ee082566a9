"""The state of one server as a frozen value, and the changes that each notice and each request makes to it.

::

    starting ──► ready ──► stopping ──► released
        │          │           │
        └──────────┴───────────┴──────► failed

A ready server whose Ray cluster does not answer is called unreachable until the cluster answers; nothing else changes. Once
a server is released or failed, none of its processes is left, or its error names the processes that are left.

Nothing here has a clock or waits: `lifecycle.Lifecycle` holds the status and passes the time.
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
    StartRepeated,
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
    """The state of a server in its life."""

    STARTING = "starting"
    READY = "ready"
    UNREACHABLE = "unreachable"
    STOPPING = "stopping"
    RELEASED = "released"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether the server has ended."""
        return self in (ServerState.RELEASED, ServerState.FAILED)

    @property
    def runs(self) -> bool:
        """Whether the server is ready, and its end has not begun."""
        return self in (ServerState.READY, ServerState.UNREACHABLE)


@dataclass(frozen=True)
class LifecycleStatus:
    """The status of a server at one moment.

    Each method returns the next status; ``at`` is the time in seconds since the epoch.

    Attributes:
        server: the name of the server.
        state: the state, such as starting or ready.
        progress: the stage of its start.
        folder: its private folder; None before the folder exists.
        leader: its first process; None before the process runs.
        kind: how the server began; None before its leader runs.
        cold_because: why no standby became the server; "" if one did, or if none was wanted.
        ready_after: seconds from the request of the start until the server was ready; None before that.
        release: the result of its end; None before that.
        error: why it failed; None if it did not fail.
        times: when each state was entered last, in seconds since the epoch.
        is_stop_requested: whether a stop was requested.
        is_engine_dead: whether vLLM's HTTP server goes on without its engine.
        is_error_unreported: whether it failed, and the error was not reported yet.
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
        """Whether the release is over, and SIGKILL did not end all processes of the server."""
        return self.state.over and self.release is not None and bool(self.release.left)

    @property
    def may_recheck(self) -> bool:
        """Whether the release is over and not proved, and another check may prove it."""
        return self.state.over and self.release is not None and self.release.may_recheck

    def requested_to_stop(self, at: float) -> LifecycleStatus:
        """Return the status after a request to stop; a server that is over does not change."""
        return self if self.state.over else self.reopened(at)

    def reopened(self, at: float) -> LifecycleStatus:
        """Return the status after a request to stop, also for a server that is over, whose release was not proved."""
        return self._entered(ServerState.STOPPING, at, is_stop_requested=True)

    def given_up(self, at: float) -> LifecycleStatus:
        """Return the status after the stop of `reopened` could not begin."""
        return self._entered(ServerState.FAILED, at)

    def with_error_reported(self) -> LifecycleStatus:
        """Return the status after its error was reported, if there is one."""
        return replace(self, is_error_unreported=False)

    def after(self, notice: Notice, at: float, seconds: float) -> LifecycleStatus:
        """Return the status after a notice that came ``seconds`` after the request of the start."""
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
            case StartRepeated():
                after = replace(self, progress=QUEUED)
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
        # A caller that requested the stop waits for the end, and gets the error. No caller waits for the end of an idle server.
        is_unreported = not self.is_stop_requested or was_idle
        return self._entered(
            ServerState.FAILED, at, error=error, release=release, is_error_unreported=is_unreported
        )

    def _entered(self, state: ServerState, at: float, **fields: Any) -> LifecycleStatus:
        times = self.times if state is self.state else {**self.times, state: at}
        return replace(self, state=state, times=times, **fields)
