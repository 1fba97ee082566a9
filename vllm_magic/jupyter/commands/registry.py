"""All commands of ``%vllm``. A new one stands in the COMMANDS of its module; a new module stands here."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.base import SubCommand

HELP = ("-h", "--help")


@lru_cache(maxsize=1)
def commands() -> dict[str, SubCommand[Any]]:
    """Each command by its name, in the order of ``%vllm help``: the sub-commands, then ``%%vllm``."""
    from vllm_magic.jupyter.commands import inspect, lifecycle, machine, models, panel, sleep, spare
    from vllm_magic.jupyter.commands.ask import AskCommand
    from vllm_magic.jupyter.commands.help import HelpCommand

    modules = (panel, lifecycle, spare, sleep, inspect, models, machine)
    known: dict[str, SubCommand[Any]] = {one.name: one for module in modules for one in module.COMMANDS}
    for one in (HelpCommand(known), AskCommand(known)):  # which have to do with all commands
        known[one.name] = one
    return known


def select(words: Sequence[str], *, cell: bool = False) -> tuple[SubCommand[Any], list[str]]:
    """The command that is meant, and the words for it; ``%vllm`` alone is ``status``.

    Args:
        words: of the line.
        cell: whether the line is the first one of a cell.

    Raises:
        InvalidOption: there is no such command.
    """
    from vllm_magic.jupyter.commands.base import find
    from vllm_magic.jupyter.commands.parser import CELL

    known = commands()
    if set(HELP) & set(words):
        named = [CELL] if cell else [word for word in words if word not in HELP][:1]
        return known["help"], named
    if cell:
        return known[CELL], list(words)
    return find(known, words[0]) if words else known["status"], list(words[1:])
