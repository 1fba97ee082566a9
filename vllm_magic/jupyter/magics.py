"""The magic ``%vllm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand
from traitlets import Enum, Float, Unicode

from vllm_magic.errors import InvalidOption, ServerNotFound
from vllm_magic.jupyter.commands import expansion, registry
from vllm_magic.jupyter.commands.context import Context
from vllm_magic.jupyter.display import mode
from vllm_magic.jupyter.loaded_manager import loaded_manager

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.jupyter.commands.settings import Settings


@magics_class
class VllmMagics(Magics):
    """Serve models with vLLM from the notebook."""

    executable = Unicode("", help="Path of the vllm to run; empty: vLLM is searched for.").tag(config=True)
    flags = Unicode("", help="Arguments of each %vllm start MODEL, before those of the line.").tag(
        config=True
    )
    gpus = Unicode("", help="The --gpus of each start; empty: vLLM chooses the GPUs.").tag(config=True)
    host = Unicode("", help="The --host of each start; empty: 127.0.0.1.").tag(config=True)
    grace = Float(
        None,
        min=0.0,
        allow_none=True,
        help="Seconds from SIGTERM to SIGKILL; None: 5, or 2.5 while SIGTERM shows no effect.",
    ).tag(config=True)
    spare = Enum(
        ("auto", "on", "off"),
        "auto",
        help="Keep a process that has imported vLLM for the next start: once a server is ready and 16 GiB of memory are free (auto), always (on), or never (off).",
    ).tag(config=True)
    display = Enum(
        mode.SETTINGS,
        mode.AUTO,
        help="How progress and answers are shown: updated in place (update), as text that is only appended (append), or whichever the front end can show (auto).",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell  # the type of Magics.shell allows None
        self._context = Context(shell, self)

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def vllm(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Start, stop and show vLLM servers, and send a cell to one of them; `%vllm help` shows the commands."""
        try:
            args = expansion.expand(expansion.split(line), {**self._shell.user_ns, **(local_ns or {})})
            command, rest = registry.select(args, cell=cell is not None)
            self._context.cell = cell or ""
            return command.run(self._context, command.parse(rest))
        except InvalidOption as error:
            raise UsageError("\n".join(error.lines)) from None
        except ServerNotFound as error:
            raise UsageError(str(error)) from None

    @property
    def settings(self) -> Settings:
        """The default arguments of each start."""
        from vllm_magic.jupyter.commands.settings import Settings

        return Settings(self.executable, self.flags, self.gpus, self.host)

    def print_news(self, *_: object) -> None:
        """Print the events since the last cell that no command reported. IPython calls this after each cell, in its thread."""
        if manager := loaded_manager():
            for line in manager.news():
                print(line)  # noqa: T201 - in the cell's thread
