"""The choice of a command by its name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from vllm_magic.commands.front_end import CELL, FrontEnd
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HELP_COMMAND = "help"
HELP_FLAGS = ("-h", "--help")
# By what other programs call them: `vllm serve`, `docker run`, `ollama list`.
_SYNONYMS = {"serve": "start", "run": "start", "ls": "status", "list": "status", "kill": "stop"}


def select(
    names: Iterable[str], args: Sequence[str], front_end: FrontEnd, *, alone: str
) -> tuple[str, list[str]]:
    """Return the name of the command that a line names, and the arguments for that command.

    Args:
        names: the names of all commands.
        args: the text arguments after the name of the program.
        front_end: where the line is written.
        alone: the name of the command if there are no arguments.

    Raises:
        InvalidOption: there is no such command.
    """
    if set(HELP_FLAGS) & set(args):
        return HELP_COMMAND, [arg for arg in args if arg not in HELP_FLAGS][:1]
    if not args:
        return alone, []
    return find(names, args[0], front_end), list(args[1:])


def find(names: Iterable[str], name: str, front_end: FrontEnd, before: str = "") -> str:
    """Return the name if a sub-command has it.

    Args:
        names: the names of all commands.
        name: the name as the user wrote it.
        front_end: where the name is written.
        before: the text before the name, which a suggestion repeats; "" for the name of the program.

    Raises:
        InvalidOption: there is no such sub-command; the message suggests one with a similar name.
    """
    sub_commands = [known for known in names if known != CELL]
    if name in sub_commands:
        return name
    same = [_SYNONYMS[name]] if _SYNONYMS.get(name) in sub_commands else []
    near = same or difflib.get_close_matches(name, sub_commands, n=1)
    suggestion = f" Did you mean {before or front_end.program} {near[0]}?" if near else ""
    raise InvalidOption(f"There is no command {name!r}.{suggestion} See {front_end.help_line()}.")
