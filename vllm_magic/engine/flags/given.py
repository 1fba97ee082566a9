"""The flags of a command line with their values, as vLLM's parser reads them: argparse, and vLLM's own changes to it.

See FlexibleArgumentParser in vLLM's utils/argparse_utils.py (0.15 to 0.33).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.flags.flag_table import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable

_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # argparse takes it for a value


@dataclass(frozen=True)
class GivenFlag:
    """A flag of a command line, with its values.

    Attributes:
        written: the flag as it is written.
        option: the option that it means.
        values: its values.
        is_joined: whether its value follows "=".
        left_over: the words that follow its values, and belong to no flag.
        position: the position of the flag on the command line.
    """

    written: str
    option: FlagOption
    values: tuple[str, ...]
    is_joined: bool
    left_over: tuple[str, ...]
    position: int


def read(args: Sequence[str], table: FlagTable) -> Iterator[GivenFlag]:
    """Yield the flags of a command line up to ``--``, without those that are unknown, or that set a key of JSON with a dot."""
    position = 0
    while position < len(args) and args[position] != "--":
        start, word = position, args[position]
        position += 1
        written, equals, value = word.partition("=")
        if word.startswith("-") and "." in written:
            position += not equals  # the key's value, whatever it is
            continue
        following: list[str] = []
        while position < len(args) and not _is_flag(args[position], table):
            following.append(args[position])
            position += 1
        option = _find(written, table) if _is_flag(word, table) else None
        if option is None:
            continue
        values = [value] if equals else following[: _most(option.nargs, len(following))]
        left_over = following if equals else following[len(values) :]
        yield GivenFlag(written, option, tuple(values), bool(equals), tuple(left_over), start)


def _is_flag(word: str, table: FlagTable) -> bool:
    """Whether argparse takes a word for a flag, or for ``--``."""
    if not word.startswith("-") or word == "-":
        return False
    if table.find(word.partition("=")[0]):
        return True
    return not _NEGATIVE_NUMBER.fullmatch(word) and " " not in word


def _find(written: str, table: FlagTable) -> FlagOption | None:
    """Return the option that a flag, or the beginning of a long flag, means; None if that is not certain."""
    if found := table.find(written):
        return found
    if not written.startswith("--"):
        return None
    begun = [option for string, option in table.by_string.items() if string.startswith(plain(written))]
    return begun[0] if begun and all(one is begun[0] for one in begun) else None


def _most(nargs: str, available: int) -> int:
    """Return how many of the available words argparse takes for values."""
    if nargs in ("*", "+"):
        return available
    return 1 if nargs == "?" else int(nargs) if nargs.isdecimal() else available
