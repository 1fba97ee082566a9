"""The events that the state machine of a server handles, and the notices about changes in the server's life.

An `Event` is input: `monitor.Monitor` observes it, and `state.StateMachine` handles it. Its field ``at`` is its time, by
`time.monotonic`. A `Notice` is output: the supervisor's thread passes it to `server.run.ServerRun`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.engine.models.download import Download
    from vllm_magic.engine.startup.stages import Progress
    from vllm_magic.errors import VllmMagicError
    from vllm_magic.gpu.devices import Gpu
    from vllm_magic.guard.protocol import Message, Why
    from vllm_magic.ledger import Folder
    from vllm_magic.lifecycle.idle_timeout import ServerUse
    from vllm_magic.linux.processes import Identity
    from vllm_magic.provisioning.base import StartKind
    from vllm_magic.release.result import Release


@dataclass(frozen=True)
class StopPlan:
    """How to stop a server. Times in seconds.

    Attributes:
        grace: the time from SIGTERM to SIGKILL.
        patience: the same, if SIGTERM shows no effect at all.
        drain: the time that requests in flight have to finish before SIGTERM.
        hurry: whether this plan may shorten a release that is under way.
        asked: when the stop was requested, by `time.monotonic`.
    """

    grace: float
    patience: float
    drain: float = 0.0
    hurry: bool = False
    asked: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class TimePassed:
    """Time has passed: a deadline may be over, or a reading may be due."""

    at: float


@dataclass(frozen=True)
class MessageReceived:
    """A message of the guards has arrived."""

    at: float
    message: Message


@dataclass(frozen=True)
class OneGuardEnded:
    """One guard has ended; the other one may live."""

    at: float


@dataclass(frozen=True)
class GuardsEnded:
    """Both guards are gone."""

    at: float


@dataclass(frozen=True)
class ProcessEnded:
    """A process of the ready server has ended, and its leader may live."""

    at: float


@dataclass(frozen=True)
class StopRequested:
    """A stop of the server was requested."""

    at: float
    plan: StopPlan


@dataclass(frozen=True)
class StopSent:
    """The request to stop was sent to the guards."""

    at: float


@dataclass(frozen=True)
class LogRead:
    """The new lines of the log were read.

    Attributes:
        progress: the progress that they report, oldest first.
        waits_for: what the start waits for; "" if the log grows, or if that is not known.
    """

    at: float
    progress: tuple[Progress, ...]
    waits_for: str = ""


@dataclass(frozen=True)
class DownloadRead:
    """The progress of the download was read; None if the server downloads nothing."""

    at: float
    download: Download | None


@dataclass(frozen=True)
class HealthChecked:
    """A request of ``/health`` is over.

    Attributes:
        is_ready: whether the answer says that the server is ready.
        fault: the error in vllm_magic itself that prevented the check; "" for none.
        is_engine_dead: whether the answer says that the engine is dead.
    """

    at: float
    is_ready: bool
    fault: str = ""
    is_engine_dead: bool = False


@dataclass(frozen=True)
class UseRead:
    """The server's use was read; ``fault`` as for `HealthChecked`."""

    at: float
    use: ServerUse
    fault: str = ""


@dataclass(frozen=True)
class GuardsChecked:
    """Guards that are late were checked; ``are_stopped`` if a signal or a debugger has stopped one of them."""

    at: float
    are_stopped: bool


@dataclass(frozen=True)
class Faulted:
    """A fault of vllm_magic: the guards cannot be followed any more, and are asked to release the server."""

    at: float


Event = (
    TimePassed
    | MessageReceived
    | OneGuardEnded
    | GuardsEnded
    | ProcessEnded
    | StopRequested
    | StopSent
    | LogRead
    | DownloadRead
    | HealthChecked
    | UseRead
    | GuardsChecked
    | Faulted
)


@dataclass(frozen=True)
class LeaderStarted:
    """The leader runs; its pid is the session id too.

    Attributes:
        folder: the private folder of the server.
        leader: the first process of the server.
        baseline: the GPUs of the machine before the start.
        chosen: the UUIDs of the GPUs that were chosen for the server; empty if vLLM chooses.
        kind: how the server began.
        cold_because: why no standby became the server; "" if one did, or if none was wanted.
    """

    folder: Folder
    leader: Identity
    baseline: tuple[Gpu, ...]
    chosen: Collection[str]
    kind: StartKind
    cold_because: str


@dataclass(frozen=True)
class ProgressChanged:
    """The start of the server has made progress."""

    progress: Progress


@dataclass(frozen=True)
class Ready:
    """The server is ready: it has answered ``/health``."""


@dataclass(frozen=True)
class EngineDied:
    """The engine of a ready server has ended, and vLLM's HTTP server goes on without it."""


@dataclass(frozen=True)
class Idle:
    """The server had no request for the time of ``--ttl``, and is to be stopped."""


@dataclass(frozen=True)
class Ending:
    """The guards are ending the server."""

    why: Why


@dataclass(frozen=True)
class News:
    """One line that the user should see."""

    text: str


@dataclass(frozen=True)
class Over:
    """The server has ended.

    Attributes:
        release: the release, with its proof.
        why: the reason for the end.
        failure: the cause of an end that was not requested, if it is known.
        disk: a sentence if the disk of the log was full when the end began; else "".
        fault: the fault of vllm_magic that ended the server, as text; "" for none.
    """

    release: Release
    why: Why
    failure: Failure | None = None
    disk: str = ""
    fault: str = ""


@dataclass(frozen=True)
class StartRepeated:
    """The start failed for a reason that has passed, the server is released, and the start begins once more."""

    cause: str


@dataclass(frozen=True)
class NeverStarted:
    """The server never had a process."""

    error: VllmMagicError


@dataclass(frozen=True)
class SupervisorFailed:
    """The start, or another attempt to release the server, failed with an error; nothing else is known of the server."""

    error: VllmMagicError


Notice = (
    LeaderStarted
    | ProgressChanged
    | News
    | Ready
    | EngineDied
    | Idle
    | Ending
    | StartRepeated
    | Over
    | NeverStarted
    | SupervisorFailed
)
