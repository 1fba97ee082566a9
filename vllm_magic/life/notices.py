"""What a life is asked, and what it tells."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.engine.failures import Failure
    from vllm_magic.engine.stages import Progress
    from vllm_magic.errors import VllmMagicError
    from vllm_magic.gpu.devices import Gpu
    from vllm_magic.guard.protocol import Why
    from vllm_magic.ledger import Folder
    from vllm_magic.linux.processes import Identity
    from vllm_magic.release import Release


@dataclass(frozen=True)
class StopPlan:
    """How to stop, in seconds.

    Attributes:
        grace: from SIGTERM to SIGKILL.
        patience: the same, where SIGTERM shows no effect at all.
        drain: how long requests in flight may take to finish before SIGTERM.
        hurry: whether it may shorten a release that is under way.
        asked: when, by `time.monotonic`.
    """

    grace: float
    patience: float
    drain: float = 0.0
    hurry: bool = False
    asked: float = field(default_factory=time.monotonic)


class StartKind(str, Enum):
    """How a server began in this kernel."""

    COLD = "cold"  # vLLM was executed
    WARM = "warm"  # a spare became it
    ATTACHED = "attached"  # it was there already


@dataclass(frozen=True)
class Launched:
    """The leader runs; its pid is the session id too.

    Attributes:
        folder: its private folder.
        leader: the process.
        baseline: the GPUs of the machine before that.
        chosen: the UUIDs of those that it was started for; none where vLLM chooses.
        kind: how it began.
        cold_because: why no spare became it; "" where one did, or none was to be had.
    """

    folder: Folder
    leader: Identity
    baseline: tuple[Gpu, ...] = ()
    chosen: Collection[str] = ()
    kind: StartKind = StartKind.COLD
    cold_because: str = ""


@dataclass(frozen=True)
class Moved:
    """A start came further."""

    progress: Progress


@dataclass(frozen=True)
class Ready:
    """``/health`` answered."""


@dataclass(frozen=True)
class Idle:
    """Nobody has asked it for anything for so long that it is to be stopped (``--ttl``)."""


@dataclass(frozen=True)
class Ending:
    """The guards are ending the server."""

    why: Why


@dataclass(frozen=True)
class News:
    """Something that a person should hear of, in one line."""

    text: str


@dataclass(frozen=True)
class Over:
    """Nothing runs any more; the release says what is proved, and ``failure`` why it ended where that was by itself.

    ``disk`` says that the disk of its log was full when its end began, "" where it was not.
    """

    release: Release
    why: Why
    failure: Failure | None = None
    disk: str = ""


@dataclass(frozen=True)
class NeverStarted:
    """No process of it was ever there."""

    error: VllmMagicError


@dataclass(frozen=True)
class Broken:
    """A fault of our own: the guards were let go and release the server, but nothing is proved."""

    error: VllmMagicError


Notice = Launched | Moved | News | Ready | Idle | Ending | Over | NeverStarted | Broken
