"""The interface through which the supervisor starts, attaches or submits a server, and the result of a launch."""

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


class StartKind(str, Enum):
    """How a server began in this kernel."""

    COLD = "cold"  # vLLM was executed
    WARM = "warm"  # a spare became the server
    ATTACHED = "attached"  # the server was running already


@dataclass(frozen=True)
class Prepared:
    """The data that the supervisor needs to follow a server until its end.

    Attributes:
        folder: the private folder of the server.
        verifier: the verifier, which has read the GPUs before the start.
        gpus: the UUIDs of the GPUs that the server may use.
        address: the address at which this machine reaches the server.
        port: the TCP port on which the server will listen.
        model: the model that the server serves.
        downloads: the progress of the server's downloads.
        secrets: keys and tokens that the log may contain, which are masked when the log is shown.
        kind: how the server began.
        cold_because: why no standby became the server; "" if one did, or if none was wanted.
        first: the first stage of the start after the leader runs.
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
    """A server whose guards run."""

    prepared: Prepared
    guards: Guards


class Provisioner(ABC):
    """Makes one server. The supervisor knows only this interface, and not how the server is made.

    Attributes:
        command: the command of the server, with its address and key.
        stop_grace: seconds from SIGTERM to SIGKILL when the server is stopped.
        stop_patience: the same, if SIGTERM shows no effect at all.
        stops_at_exit: whether the kernel asks for the release when it ends. If not, the guards notice the kernel's end, and
            release the server unless it is to be kept.
        from_the_start: whether `launch` starts the server. If it takes over a running server, that needs no free memory.
        standby: the spec of a standby for starts like this one; None if no standby can become such a server.
    """

    command: Command
    stop_grace: float
    stop_patience: float
    stops_at_exit: bool
    from_the_start: bool = True
    standby: StandbySpec | None = None

    @abstractmethod
    def launch(self, cancelled: Cancellation, news: Callable[[str], None]) -> Launched | None:
        """Launch the server, and return when its guards run.

        The supervisor calls this in its thread: once, and a second time if the start is repeated (`lifecycle.retry`).

        Args:
            cancelled: the request to give up.
            news: called with each line for the user.

        Returns:
            The server; None when cancelled. In that case no process or file of it is left.

        Raises:
            VllmMagicError: the server cannot be started. No process or file of it is left.
        """

    def placement(self, folder: Folder) -> Placement:  # noqa: ARG002 - for those that are on other machines
        """Return where the server runs, and whether that place answers: here, this machine.

        Args:
            folder: the private folder of the server.
        """
        return Placement()

    def discard(self) -> None:  # noqa: B027 - most hold nothing
        """Release the resources of the provisioner. The supervisor calls this if it does not call `launch`."""
