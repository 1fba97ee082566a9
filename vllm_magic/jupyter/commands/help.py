"""``%vllm help``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllm_magic.commands import help_text, shared
from vllm_magic.commands.front_end import CELL, NOTEBOOK
from vllm_magic.commands.selection import find
from vllm_magic.jupyter.commands.base import SubCommand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.commands.declaration import CommandDeclaration
    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.view import View


@dataclass(frozen=True)
class HelpArguments:
    """The name of the command to explain; None for the list of all commands."""

    command: str | None = None


class HelpCommand(SubCommand[HelpArguments]):
    """``%vllm help``.

    Args:
        declarations: the declarations of all commands by name; they are read when the command runs.
    """

    arguments_type = HelpArguments
    declaration = replace(shared.HELP, examples=(*shared.HELP.examples, "%vllm help %%vllm"))

    def __init__(self, declarations: Mapping[str, CommandDeclaration]) -> None:
        self._declarations = declarations

    def run(self, context: Context, arguments: HelpArguments) -> View:  # noqa: ARG002
        """Return the list of all commands, or the page of one command."""
        from vllm_magic.view import View

        name = arguments.command
        if name is None:
            return View(lines=tuple(help_text.overview(NOTEBOOK, self._declarations.values())))
        if name != CELL:
            find(self._declarations, name, NOTEBOOK, NOTEBOOK.help_line())
        return View(lines=tuple(help_text.page(self._declarations[name])))
