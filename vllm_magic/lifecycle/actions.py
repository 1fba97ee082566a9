"""The actions of the state machine: `state.StateMachine` returns them for each event, and `monitor.Monitor` carries them out.

The docstring of an action names the event that follows from the action, if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.lifecycle.events import Notice
    from vllm_magic.linux.processes import Identity


@dataclass(frozen=True)
class Notify:
    """Report a notice."""

    notice: Notice


@dataclass(frozen=True)
class NotifyLeaderStarted:
    """Report the notice `LeaderStarted`, with the data of the launch."""

    leader: Identity


@dataclass(frozen=True)
class WatchGuards:
    """Watch for the end of each guard; `OneGuardEnded` follows when the first of them has ended."""

    guards: tuple[Identity, ...]


@dataclass(frozen=True)
class ReadLog:
    """Read the new lines of the log; `LogRead` follows at once."""


@dataclass(frozen=True)
class ReadDownload:
    """Read the progress of the server's download; `DownloadRead` follows at once."""


@dataclass(frozen=True)
class CheckHealth:
    """Request ``/health`` in another thread; `HealthChecked` follows after the answer."""


@dataclass(frozen=True)
class ReadUse:
    """Read the server's use in another thread; `UseRead` follows. The result of a reading that began before is dropped."""


@dataclass(frozen=True)
class KnowProcesses:
    """Give the verifier the server's processes that the guards reported."""

    processes: tuple[Identity, ...]


@dataclass(frozen=True)
class ObserveReady:
    """Have the guards and the verifier note the processes and the memory of the ready server, and watch the processes.

    `ProcessEnded` follows when a process other than the leader has ended.
    """


@dataclass(frozen=True)
class BeginRelease:
    """Lock the server's GPUs against starts until the release is proved, and check whether the disk of the log is full."""


@dataclass(frozen=True)
class ObserveBeforeStop:
    """Have the verifier record the processes and the memory of the server before its end."""


@dataclass(frozen=True)
class SendStop:
    """Request the release from the guards; `StopSent` follows at once. Times in seconds, as in `StopPlan`."""

    grace: float
    patience: float


@dataclass(frozen=True)
class CheckGuards:
    """Find out whether a guard is stopped; `GuardsChecked` follows at once."""


@dataclass(frozen=True)
class KillGuards:
    """Kill both guards; `GuardsEnded` follows."""


@dataclass(frozen=True)
class GiveUpGuards:
    """Raise the error for guards that SIGKILL does not end; `Faulted` follows."""


Action = (
    Notify
    | NotifyLeaderStarted
    | WatchGuards
    | ReadLog
    | ReadDownload
    | CheckHealth
    | ReadUse
    | KnowProcesses
    | ObserveReady
    | BeginRelease
    | ObserveBeforeStop
    | SendStop
    | CheckGuards
    | KillGuards
    | GiveUpGuards
)
