"""What the state machine wants done: `state.StateMachine` answers each event with these, `monitor.Monitor` does them.

Where another event follows from an action, its docstring names the event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.lifecycle.events import Notice
    from vllm_magic.linux.processes import Identity


@dataclass(frozen=True)
class Tell:
    """Give a notice."""

    notice: Notice


@dataclass(frozen=True)
class TellLeaderStarted:
    """Give the notice `LeaderStarted`, with what the launch knows of the server."""

    leader: Identity


@dataclass(frozen=True)
class WatchGuards:
    """Watch for the end of each guard; `OneGuardEnded` follows when the first of them has ended."""

    guards: tuple[Identity, ...]


@dataclass(frozen=True)
class ReadLog:
    """Read the new lines of the log; `LogRead` follows at once."""


@dataclass(frozen=True)
class LookAtDownload:
    """Look at what the server downloads; `DownloadSeen` follows at once."""


@dataclass(frozen=True)
class LookAtHealth:
    """Ask for ``/health``; `HealthSeen` follows when that is answered."""


@dataclass(frozen=True)
class LookAtUse:
    """Look at the server's use; `UseSeen` follows when that is answered. A look that has begun before is dropped."""


@dataclass(frozen=True)
class KnowProcesses:
    """Have the verifier know processes of the server that the guards named."""

    processes: tuple[Identity, ...]


@dataclass(frozen=True)
class ObserveReady:
    """Have the guards and the verifier note what the server holds now that it is ready, and watch its processes.

    `ProcessEnded` follows when one of them, other than the leader, has ended.
    """


@dataclass(frozen=True)
class BeginRelease:
    """Keep starts off the server's GPUs until the release is proved, and ask whether the disk of the log is full."""


@dataclass(frozen=True)
class ObserveBeforeStop:
    """Have the verifier note what the server holds before it ends."""


@dataclass(frozen=True)
class SendStop:
    """Ask the guards for the release; `StopSent` follows at once. Times in seconds, as in `StopPlan`."""

    grace: float
    patience: float


@dataclass(frozen=True)
class KillGuards:
    """Kill both guards; `GuardsEnded` follows."""


@dataclass(frozen=True)
class GiveUpGuards:
    """Raise the error for guards that SIGKILL does not end; `Faulted` follows."""


Action = (
    Tell
    | TellLeaderStarted
    | WatchGuards
    | ReadLog
    | LookAtDownload
    | LookAtHealth
    | LookAtUse
    | KnowProcesses
    | ObserveReady
    | BeginRelease
    | ObserveBeforeStop
    | SendStop
    | KillGuards
    | GiveUpGuards
)
