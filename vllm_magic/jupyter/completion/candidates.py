"""What the word at the cursor of a ``%vllm`` line can become."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import ValueKind
from vllm_magic.commands.front_end import CELL
from vllm_magic.engine import executable
from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.engine.flags.flag_table import plain
from vllm_magic.errors import ExecutableNotFound
from vllm_magic.jupyter.completion import values
from vllm_magic.jupyter.completion.values import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vllm_magic.commands.declaration import Argument, CommandDeclaration
    from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable

REFUSED = ("-h", "--help", "--headless", "--uds")  # flags with which there is no server to talk to
SERVE = "vllm serve"  # whose flags are known
LONGEST_ABOUT = 72  # characters; a menu has no room for more
_PLAIN_WORD = re.compile(r"""[^\s'"\\${}#]*""")  # that needs no quotes


@dataclass(frozen=True)
class TypedLine:
    """A ``%vllm`` line, or the first line of a ``%%vllm`` cell, up to the cursor.

    Attributes:
        words: those that are complete; in a cell the first one is ``%%vllm``.
        typed: the beginning of the one at the cursor, "" for a new one.
        executable: the vLLM that is configured, or None.
    """

    words: tuple[str, ...]
    typed: str
    executable: str | None = None


def find(line: TypedLine, commands: Mapping[str, CommandDeclaration]) -> tuple[str, list[Candidate]]:
    """The end of what is typed that is replaced, and by what.

    Args:
        line: as far as it is written.
        commands: the declarations of all commands by name.
    """
    if not _PLAIN_WORD.fullmatch(line.typed):
        return line.typed, []
    part, found = _find(line, commands)
    fitting = {one.text: one for one in found if _PLAIN_WORD.fullmatch(one.text)}
    return part, [Candidate(one.text, _short(one.about)) for one in fitting.values()]


def _find(line: TypedLine, commands: Mapping[str, CommandDeclaration]) -> tuple[str, Iterable[Candidate]]:
    if not line.words:
        return line.typed, _commands(line.typed, commands)
    command = commands.get(line.words[0])
    if command is None:
        return line.typed, ()
    options = _Options(command, _table(line) if command.flags_of == SERVE else None)
    flag, equals, value = line.typed.partition("=")
    if flag.startswith("-") and equals:
        return value, options.values(flag, value)
    return line.typed, _word(line, command, options, commands)


def _word(
    line: TypedLine,
    command: CommandDeclaration,
    options: _Options,
    commands: Mapping[str, CommandDeclaration],
) -> Iterable[Candidate]:
    behind = line.words[1:]
    positional = list(options.positionals(behind))
    if command.actions and not positional:
        told = [(one.name, one.about) for one in command.actions]
        return [Candidate(name, about) for name, about in told if name.startswith(line.typed)]
    if line.typed.startswith("-"):
        return options.beginning(line.typed, vllm=bool(positional))
    if behind and options.takes_value(behind[-1]):
        return options.values(behind[-1], line.typed)
    found: list[Candidate] = []
    if argument := _argument(command, positional):
        found += _values(argument, line, commands)
    if not line.typed:
        found += options.beginning("", vllm=bool(positional))
    return found


def _commands(typed: str, commands: Mapping[str, CommandDeclaration]) -> list[Candidate]:
    return [
        Candidate(name, one.about)
        for name, one in commands.items()
        if name != CELL and name.startswith(typed)
    ]


def _argument(command: CommandDeclaration, given: list[str]) -> Argument | None:
    """The next argument by its place; those that are given may have the action before them."""
    arguments = command.arguments
    if command.actions:
        name, *given = given
        arguments = next((one.arguments for one in command.actions if one.name == name), ())
    return arguments[len(given)] if len(given) < len(arguments) else None


def _values(
    argument: Argument, line: TypedLine, commands: Mapping[str, CommandDeclaration]
) -> Iterable[Candidate]:
    if argument.kind is ValueKind.COMMAND:
        return _commands(line.typed, commands)
    if argument.kind is ValueKind.ADAPTER:
        return values.adapters(flags.value(line.words, "--server"), line.typed)
    return values.of_kind(argument.kind, line.typed)


def _table(line: TypedLine) -> FlagTable:
    """The flags of the vLLM that is meant; where they are not known, some of them, and they begin to be read."""
    with suppress(ExecutableNotFound):
        path = executable.find(flags.value(line.words, "--executable") or line.executable)
        if known := flag_table.load(path):
            return known
        from vllm_magic.children import flag_reading  # which takes its time to be imported

        flag_reading.table(path)
    from vllm_magic.engine.flags.common_flags import COMMON

    return COMMON


class _Options:
    """The options of a command, and vLLM's flags where they can follow it."""

    def __init__(self, command: CommandDeclaration, table: FlagTable | None) -> None:
        self._own = {option.flag: option for option in command.options}
        self._table = table

    def _of_vllm(self, flag: str) -> FlagOption | None:
        return self._table.find(flag) if self._table else None

    def takes_value(self, flag: str) -> bool:
        """Whether the next word is the value of an option that is written so."""
        option = self._own.get(flag) or self._of_vllm(flag)
        return option is not None and option.takes_value

    def values(self, flag: str, typed: str) -> Iterable[Candidate]:
        """The values of the option that is written so; none where there is no such option."""
        if own := self._own.get(flag):
            return values.of_option(own, typed)
        of_vllm = self._of_vllm(flag)
        return values.of_vllm(of_vllm, typed) if of_vllm else ()

    def positionals(self, words: tuple[str, ...]) -> Iterator[str]:
        """The words that are neither an option nor the value of one."""
        rest = iter(words)
        for word in rest:
            if not word.startswith("-"):
                yield word
            elif self.takes_value(word):
                next(rest, None)

    def beginning(self, typed: str, *, vllm: bool) -> Iterator[Candidate]:
        """The options that begin so, our own first; vLLM's in the spelling that is typed."""
        for flag, option in self._own.items():
            if flag.startswith(typed):
                yield Candidate(flag, option.about)
        if self._table is None or not vllm:
            return
        for string, of_vllm in sorted(self._table.by_string.items(), key=_long_first):
            if string.startswith(plain(typed)) and string not in (*self._own, *REFUSED):
                rest = string[len(typed) :]
                yield Candidate(typed + (rest.replace("-", "_") if "_" in typed else rest), _about(of_vllm))


def _long_first(entry: tuple[str, FlagOption]) -> tuple[bool, str]:
    return not entry[0].startswith("--"), entry[0]


def _about(option: FlagOption) -> str:
    return " · ".join(filter(None, (option.kind, option.help)))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ABOUT else f"{text[: LONGEST_ABOUT - 1].rstrip()}…"
