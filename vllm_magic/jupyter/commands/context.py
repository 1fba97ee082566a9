"""The context of a command: the shell in which it runs, and the settings of that shell."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.jupyter.commands.settings import Settings
    from vllm_magic.jupyter.display.chat_cell import ChatCells
    from vllm_magic.jupyter.display.mode import DisplayMode
    from vllm_magic.manager.manager import Manager


class Configuration(Protocol):
    """The settings of ``%config VllmMagics``.

    Attributes:
        grace: the seconds from SIGTERM to SIGKILL; None for the default.
        spare: the mode of the spare, a value of `StandbyMode`.
        display: the way in which outputs that change are shown, a value of `mode.SETTINGS`.
    """

    grace: Any
    spare: Any
    display: Any

    @property
    def settings(self) -> Settings:
        """The default arguments of each start."""


class Context:
    """The context of the commands of one shell.

    Args:
        shell: the shell in which the commands run.
        configuration: the settings of the shell.

    Attributes:
        cell: the lines below the first line of the cell; "" for a line magic.
    """

    def __init__(self, shell: InteractiveShell, configuration: Configuration) -> None:
        self.shell = shell
        self.cell = ""
        self._configuration = configuration

    @property
    def notebook(self) -> bool:
        """Whether the shell has a front end; False in a terminal."""
        return hasattr(self.shell, "kernel")

    @property
    def display_mode(self) -> DisplayMode:
        """The way in which the front end of this command shows outputs that change."""
        from vllm_magic.jupyter.display import mode

        return mode.choose(self.shell, self._configuration.display)

    @property
    def settings(self) -> Settings:
        """The default arguments of each start."""
        return self._configuration.settings

    @property
    def executable(self) -> str | None:
        """The configured path of vLLM; None if none is configured."""
        return self.settings.executable or None

    @property
    def grace(self) -> float | None:
        """The configured seconds from SIGTERM to SIGKILL; None for the default."""
        grace: float | None = self._configuration.grace
        return grace

    @property
    def manager(self) -> Manager:
        """The manager of the kernel. Its spare gets the configured mode."""
        from vllm_magic.manager.manager import manager
        from vllm_magic.provisioning.standby_pool import StandbyMode

        manager.spares.set_mode(StandbyMode(self._configuration.spare))
        return manager

    def configure_spare(self, mode: str) -> None:
        """Set the mode of the spare, a value of `StandbyMode`."""
        self._configuration.spare = mode

    @cached_property
    def chat_cells(self) -> ChatCells:
        """The cells of ``%%vllm``, with their conversations."""
        from vllm_magic.jupyter.display.chat_cell import ChatCells

        return ChatCells()
