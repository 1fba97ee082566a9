"""The choice of a command by the words of a line."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from vllm_magic.commands.front_end import CELL, FrontEnd
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HELP = "help"
HELP_FLAGS = ("-h", "--help")


def select(
    names: Iterable[str], words: Sequence[str], front_end: FrontEnd, *, alone: str
) -> tuple[str, list[str]]:
    """Return the name of the command that the words name, and the words for that command.

    Args:
        names: the names of all commands.
        words: the words after the name of the program.
        front_end: where they are written.
        alone: the command if there are no words.

    Raises:
        InvalidOption: there is no such command.
    """
    if set(HELP_FLAGS) & set(words):
        return HELP, [word for word in words if word not in HELP_FLAGS][:1]
    if not words:
        return alone, []
    return find(names, words[0], front_end), list(words[1:])


def find(names: Iterable[str], name: str, front_end: FrontEnd, before: str = "") -> str:
    """Return the name if a sub-command has it.

    Args:
        names: the names of all commands.
        name: the name as the user wrote it.
        front_end: where it is written.
        before: the words before it, for the suggestion in an error; "" for the name of the program.

    Raises:
        InvalidOption: there is no such sub-command; the message suggests one with a similar name.
    """
    known = [one for one in names if one != CELL]
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f" Did you mean {before or front_end.program} {near[0]}?" if near else ""
    raise InvalidOption(f"There is no command {name!r}.{suggestion} See {front_end.help_line()}.")
