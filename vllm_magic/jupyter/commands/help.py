"""``%vllm help``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.jupyter.commands import help_text
from vllm_magic.jupyter.commands.base import Argument, SubCommand, ValueKind, find
from vllm_magic.jupyter.commands.parser import CELL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.view import View


@dataclass(frozen=True)
class HelpArguments:
    """``command`` is None for all of them."""

    command: str | None = None


class HelpCommand(SubCommand[HelpArguments]):
    """``%vllm help``.

    Args:
        commands: all commands by their names; it is read when help is wanted.
    """

    name = "help"
    about = "this, or all about one command"
    details = "`%vllm COMMAND --help` is the same."
    arguments = (Argument("COMMAND", "the command (else the list of all)", ValueKind.COMMAND),)
    examples = ("%vllm help", "%vllm help start", "%vllm help %%vllm")

    def __init__(self, commands: Mapping[str, SubCommand[Any]]) -> None:
        self._commands = commands

    def parse(self, words: Sequence[str]) -> HelpArguments:
        """The command, or None."""
        return HelpArguments(**self.read(words))

    def run(self, context: Context, arguments: HelpArguments) -> View:  # noqa: ARG002
        """The list of all, or the page of one."""
        from vllm_magic.view import View

        name = arguments.command
        if name is None:
            return View(lines=tuple(help_text.overview(self._commands.values())))
        command = self._commands[name] if name == CELL else find(self._commands, name, "%vllm help")
        return View(lines=tuple(help_text.page(command)))
