"""All commands of ``%vllm``.

A new command is added to COMMANDS in its module; a new module is added to `commands` here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.commands.declaration import CommandDeclaration
    from vllm_magic.jupyter.commands.base import SubCommand


@lru_cache(maxsize=1)
def commands() -> dict[str, SubCommand[Any]]:
    """Return each command by its name, in the order of ``%vllm help``: the sub-commands, then ``%%vllm``."""
    from vllm_magic.jupyter.commands import inspect, lifecycle, machine, models, panel, sleep, spare
    from vllm_magic.jupyter.commands.ask import AskCommand
    from vllm_magic.jupyter.commands.help import HelpCommand

    modules = (panel, lifecycle, spare, sleep, inspect, models, machine)
    known: list[SubCommand[Any]] = [command for module in modules for command in module.COMMANDS]
    declarations: dict[str, CommandDeclaration] = {}
    known += [HelpCommand(declarations), AskCommand(declarations)]
    declarations.update((command.declaration.name, command.declaration) for command in known)
    return {command.declaration.name: command for command in known}


def declarations() -> dict[str, CommandDeclaration]:
    """Return the declaration of each command by its name, in the same order."""
    return {name: command.declaration for name, command in commands().items()}


def select(args: Sequence[str], *, cell: bool = False) -> tuple[SubCommand[Any], list[str]]:
    """Return the command that a line names, and the arguments for it; ``%vllm`` alone is ``status``.

    Args:
        args: the arguments of the line.
        cell: whether the line is the first line of a cell.

    Raises:
        InvalidOption: there is no such command.
    """
    from vllm_magic.commands import selection
    from vllm_magic.commands.front_end import CELL, NOTEBOOK

    known = commands()
    if cell:
        asks_help = bool(set(selection.HELP_FLAGS) & set(args))
        return (known[selection.HELP_COMMAND], [CELL]) if asks_help else (known[CELL], list(args))
    name, rest = selection.select(known, args, NOTEBOOK, alone="status")
    return known[name], rest
