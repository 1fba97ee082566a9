"""What happens to a server: the events that its state machine handles, and the notices that others get of it.

An `Event` goes in: `monitor.Monitor` hears it, and `state.StateMachine` handles it. Each says when it was, by
`time.monotonic`. A `Notice` goes out: the thread of the server gives it to whoever shows the server.
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
    """How to stop, in seconds.

    Attributes:
        grace: from SIGTERM to SIGKILL.
        patience: the same, if SIGTERM shows no effect at all.
        drain: how long requests in flight may take to finish before SIGTERM.
        hurry: whether this plan may shorten a release that is under way.
        asked: when the stop was asked for, by `time.monotonic`.
    """

    grace: float
    patience: float
    drain: float = 0.0
    hurry: bool = False
    asked: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class TimePassed:
    """It is later than before: deadlines may be over, and looks may be due."""

    at: float


@dataclass(frozen=True)
class MessageReceived:
    """The guards said something."""

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
    """Somebody wants the server to end."""

    at: float
    plan: StopPlan


@dataclass(frozen=True)
class StopSent:
    """The guards were sent the request to stop."""

    at: float


@dataclass(frozen=True)
class LogRead:
    """The new lines of the log were read.

    Attributes:
        found: the progress that they report, oldest first.
    """

    at: float
    found: tuple[Progress, ...]


@dataclass(frozen=True)
class DownloadSeen:
    """A look at what the server downloads is over; None if it downloads nothing."""

    at: float
    download: Download | None


@dataclass(frozen=True)
class HealthSeen:
    """A look at ``/health`` is over.

    Attributes:
        is_ready: whether it answered that the server is ready.
        fault: the fault of vllm_magic because of which nothing was seen; "" for none.
        is_engine_dead: whether it answered that the engine is dead.
    """

    at: float
    is_ready: bool
    fault: str = ""
    is_engine_dead: bool = False


@dataclass(frozen=True)
class UseSeen:
    """A look at the server's use is over; ``fault`` as for `HealthSeen`."""

    at: float
    use: ServerUse
    fault: str = ""


@dataclass(frozen=True)
class Faulted:
    """A fault of vllm_magic: the guards cannot be followed any longer, and are about to be killed."""

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
    | DownloadSeen
    | HealthSeen
    | UseSeen
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
        cold_because: why no spare became the server; "" if one did, or if there was none.
    """

    folder: Folder
    leader: Identity
    baseline: tuple[Gpu, ...]
    chosen: Collection[str]
    kind: StartKind
    cold_because: str


@dataclass(frozen=True)
class ProgressChanged:
    """The start of the server has come further."""

    progress: Progress


@dataclass(frozen=True)
class Ready:
    """``/health`` answered."""


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
        failure: the cause of an end that nobody asked for, if it is known.
        disk: says that the disk of the log was full when the end began; "" if it was not.
        fault: the fault of vllm_magic that made it end, in words; "" for none.
    """

    release: Release
    why: Why
    failure: Failure | None = None
    disk: str = ""
    fault: str = ""


@dataclass(frozen=True)
class NeverStarted:
    """The server never had a process."""

    error: VllmMagicError


@dataclass(frozen=True)
class SupervisorFailed:
    """An error came before the server was there, or in another try at its release: nothing new is known of the server."""

    error: VllmMagicError


Notice = (
    LeaderStarted
    | ProgressChanged
    | News
    | Ready
    | EngineDied
    | Idle
    | Ending
    | Over
    | NeverStarted
    | SupervisorFailed
)
