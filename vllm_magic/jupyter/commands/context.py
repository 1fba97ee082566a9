"""What a command needs of the shell in which it runs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.jupyter.commands.settings import Settings
    from vllm_magic.jupyter.display.chat_cell import Asker
    from vllm_magic.manager.manager import Manager


class Configuration(Protocol):
    """What ``%config VllmMagics`` sets.

    Attributes:
        grace: seconds from SIGTERM to SIGKILL, or None.
        spare: a mode of the spares.
    """

    grace: Any
    spare: Any

    @property
    def settings(self) -> Settings:
        """The defaults of each start."""


class Context:
    """One for each shell.

    Args:
        shell: in which the commands run.
        configuration: what is set for it.

    Attributes:
        cell: the lines below the one that runs; "" where it stands alone.
    """

    def __init__(self, shell: InteractiveShell, configuration: Configuration) -> None:
        self.shell = shell
        self.cell = ""
        self._configuration = configuration

    @property
    def notebook(self) -> bool:
        """Whether a front end is there that can update an output; otherwise it is a terminal."""
        return hasattr(self.shell, "kernel")

    @property
    def settings(self) -> Settings:
        """The defaults of each start."""
        return self._configuration.settings

    @property
    def executable(self) -> str | None:
        """The vLLM that is configured, or None."""
        return self.settings.executable or None

    @property
    def grace(self) -> float | None:
        """Seconds from SIGTERM to SIGKILL that are configured, or None."""
        grace: float | None = self._configuration.grace
        return grace

    @property
    def manager(self) -> Manager:
        """The kernel's manager, with spares as they are configured."""
        from vllm_magic.manager.manager import manager
        from vllm_magic.provisioning.standby_pool import StandbyMode

        manager.spares.set_mode(StandbyMode(self._configuration.spare))
        return manager

    def configure_spare(self, mode: str) -> None:
        """Set whether there is a spare."""
        self._configuration.spare = mode

    @cached_property
    def asker(self) -> Asker:
        """Asks servers for ``%%vllm``, and remembers the conversations with them."""
        from vllm_magic.jupyter.display.chat_cell import Asker

        return Asker(notebook=self.notebook)
