"""How a server comes to be, whichever way: the interface that the supervisor knows, and what a launch gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.cluster.placement import Placement
from vllm_magic.engine.startup.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.models.download import Downloads
    from vllm_magic.guard.client import Guards
    from vllm_magic.ledger import Folder
    from vllm_magic.linux.eventfd import Cancellation
    from vllm_magic.provisioning.standby import StandbySpec
    from vllm_magic.release.verifier import Verifier

GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a server that is ending
PATIENCE = 2.5  # seconds to SIGKILL for one that shows no sign of it: SIGTERM was swallowed
CLUSTER_GRACE = 120.0  # seconds for the agent of a server on a Ray cluster to see its job end


class StartKind(str, Enum):
    """How a server began in this kernel."""

    COLD = "cold"  # vLLM was executed
    WARM = "warm"  # a spare became the server
    ATTACHED = "attached"  # the server was running already


@dataclass(frozen=True)
class Prepared:
    """What has to be known of a server to follow it to its end.

    Attributes:
        folder: the private folder of the server.
        verifier: has observed the GPUs as they were before the start.
        gpus: the UUIDs of the GPUs that the server may use.
        address: the address at which this machine reaches the server.
        port: the TCP port on which the server will listen.
        model: the model that the server serves.
        downloads: tells what the server downloads.
        secrets: keys and tokens that the log may hold, to be masked where the log is shown.
        kind: how the server began.
        cold_because: why no spare became the server; "" if one did, or if none was asked for.
        first: the stage of the start once the leader runs.
    """

    folder: Folder
    verifier: Verifier
    gpus: tuple[str, ...]
    address: str
    port: int
    model: str
    downloads: Downloads
    secrets: tuple[str, ...] = field(default=(), repr=False)
    kind: StartKind = StartKind.COLD
    cold_because: str = ""
    first: Stage = Stage.IMPORTING


@dataclass(frozen=True)
class Launched:
    """One server, and its guards, which run."""

    prepared: Prepared
    guards: Guards


class Provisioner(ABC):
    """Makes one server, whichever way. The supervisor knows no other type.

    Attributes:
        command: the command of the server, with its address and key.
        stop_grace: seconds from SIGTERM to SIGKILL when the server is stopped.
        stop_patience: the same, if SIGTERM shows no effect at all.
        stops_at_exit: whether the kernel asks for the release when it ends. The guards end every other server too, unless
            it is to be kept; they know of the kernel's end by themselves.
        from_the_start: whether `launch` starts the server. If it takes over one that runs, nothing has to be released for
            it before.
        standby: what a standby for starts like this one has to import; None if no standby can become such a server.
    """

    command: Command
    stop_grace: float
    stop_patience: float
    stops_at_exit: bool
    from_the_start: bool = True
    standby: StandbySpec | None = None

    @abstractmethod
    def launch(self, cancelled: Cancellation, tell: Callable[[str], None]) -> Launched | None:
        """Launch the server, and return once its guards run. Called once, in the supervisor's thread.

        Args:
            cancelled: set when nobody wants the server any more.
            tell: called with each line that the user should see.

        Returns:
            The server; None when cancelled, and then nothing of it is there.

        Raises:
            VllmMagicError: it cannot be started, and nothing of it is there.
        """

    def placement(self, folder: Folder) -> Placement:  # noqa: ARG002 - for those that are on other machines
        """Return where the server runs, and whether that place answers: here, this machine.

        Args:
            folder: the private folder of the server.
        """
        return Placement()

    def discard(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what the provisioner holds; called instead of `launch`."""
