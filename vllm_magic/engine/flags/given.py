"""The flags of a command line with their values, as vLLM's parser reads them.

The parser is argparse with vLLM's own changes: see FlexibleArgumentParser in vLLM's utils/argparse_utils.py (0.15 to 0.33).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.flags.flag_table import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable

_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # argparse reads it as a value


@dataclass(frozen=True)
class GivenFlag:
    """A flag of a command line, with its values.

    Attributes:
        written: the flag as the user wrote it.
        option: the option that the flag means.
        values: the values of the flag.
        is_joined: whether the value follows "=".
        left_over: the words that follow the values, and belong to no flag.
        position: the position of the flag on the command line.
    """

    written: str
    option: FlagOption
    values: tuple[str, ...]
    is_joined: bool
    left_over: tuple[str, ...]
    position: int


def read(args: Sequence[str], table: FlagTable) -> Iterator[GivenFlag]:
    """Yield the flags of a command line up to ``--``, except unknown flags and those with a dot, which set one key of JSON."""
    position = 0
    while position < len(args) and args[position] != "--":
        start, word = position, args[position]
        position += 1
        written, equals, value = word.partition("=")
        if word.startswith("-") and "." in written:
            position += not equals  # the value of the key, which may begin with dashes
            continue
        following: list[str] = []
        while position < len(args) and not _is_flag(args[position], table):
            following.append(args[position])
            position += 1
        option = _find(written, table) if _is_flag(word, table) else None
        if option is None:
            continue
        values = [value] if equals else following[: _value_count(option.nargs, len(following))]
        left_over = following if equals else following[len(values) :]
        yield GivenFlag(written, option, tuple(values), bool(equals), tuple(left_over), start)


def _is_flag(word: str, table: FlagTable) -> bool:
    """Whether argparse reads a word as a flag, or as ``--``."""
    if not word.startswith("-") or word == "-":
        return False
    if table.find(word.partition("=")[0]):
        return True
    return not _NEGATIVE_NUMBER.fullmatch(word) and " " not in word


def _find(written: str, table: FlagTable) -> FlagOption | None:
    """Return the option that a flag, or the beginning of a long flag, means; None if there is none, or if there are several."""
    if found := table.find(written):
        return found
    if not written.startswith("--"):
        return None
    matches = [option for string, option in table.by_string.items() if string.startswith(plain(written))]
    return matches[0] if matches and all(option is matches[0] for option in matches) else None


def _value_count(nargs: str, available: int) -> int:
    """Return how many of the available words argparse reads as values."""
    if nargs in ("*", "+"):
        return available
    return 1 if nargs == "?" else int(nargs) if nargs.isdecimal() else available
