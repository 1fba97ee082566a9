"""What all sub-commands of ``%vllm`` need: the shell, its settings, the kernel's manager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.magic import Magics
from traitlets import Enum, Float, Unicode

from vllm_magic.jupyter.commands.settings import Settings

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.manager.manager import Manager


class Deeds(Magics):
    """One for each shell."""

    executable = Unicode("", help="Path of the vllm to run; empty for the one that is found.").tag(
        config=True
    )
    flags = Unicode("", help="Words behind each %vllm start MODEL, before its own.").tag(config=True)
    gpus = Unicode("", help="The --gpus of each start; empty: vLLM chooses.").tag(config=True)
    host = Unicode("", help="The --host of each start; empty for 127.0.0.1.").tag(config=True)
    grace = Float(
        None,
        min=0.0,
        allow_none=True,
        help="Seconds from SIGTERM to SIGKILL; None: as long as SIGTERM shows an effect.",
    ).tag(config=True)
    spare = Enum(
        ("auto", "on", "off"),
        "auto",
        help="Import vLLM ahead of the next start: once a server is ready where 16 GiB of memory are free (auto), in any case (on), or never (off).",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell  # Magics.shell is typed as if it could be missing

    @property
    def _in_notebook(self) -> bool:
        """Whether a front end is there that can update an output."""
        return hasattr(self._shell, "kernel")

    @property
    def _manager(self) -> Manager:
        from vllm_magic.manager.manager import manager
        from vllm_magic.provisioning.standby_pool import StandbyMode

        manager.spares.set_mode(StandbyMode(self.spare))
        return manager

    @property
    def settings(self) -> Settings:
        """The defaults of each start."""
        return Settings(self.executable, self.flags, self.gpus, self.host)
