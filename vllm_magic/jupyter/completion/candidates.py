"""The candidates for the argument at the cursor of a ``%vllm`` line."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import ValueKind
from vllm_magic.commands.front_end import CELL
from vllm_magic.engine import environments, executable
from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.engine.flags.flag_table import plain
from vllm_magic.errors import ExecutableNotFound, InvalidOption
from vllm_magic.jupyter.completion import values
from vllm_magic.jupyter.completion.values import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vllm_magic.commands.declaration import Argument, CommandDeclaration
    from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable

NOT_OFFERED = ("-h", "--help", "--headless", "--uds")  # flags with which vLLM does not serve over TCP
SERVE = "vllm serve"  # the command of vLLM whose flags are completed
UNREAD = "vLLM's flags are unread (%vllm doctor)"
LONGEST_ABOUT = 72  # characters of a description; a menu has no room for more
_PLAIN = re.compile(r"""[^\s'"\\${}#]*""")  # an argument that needs no quotes


@dataclass(frozen=True)
class TypedLine:
    """A ``%vllm`` line, or the first line of a ``%%vllm`` cell, up to the cursor.

    Attributes:
        args: the complete arguments; in a cell the first is ``%%vllm``.
        typed: the part of an argument before the cursor; "" for a new argument.
        executable: the configured path of vLLM; None if none is configured.
    """

    args: tuple[str, ...]
    typed: str
    executable: str | None = None


def find(line: TypedLine, commands: Mapping[str, CommandDeclaration]) -> tuple[str, list[Candidate]]:
    """Return the part of the typed text that a candidate replaces, and the candidates.

    Args:
        line: the line up to the cursor.
        commands: the declarations of all commands by name.
    """
    if not _PLAIN.fullmatch(line.typed):
        return line.typed, []
    part, candidates = _find(line, commands)
    about = {candidate.text: candidate.about for candidate in candidates if _PLAIN.fullmatch(candidate.text)}
    return part, [Candidate(text, _shortened(description)) for text, description in about.items()]


def _find(line: TypedLine, commands: Mapping[str, CommandDeclaration]) -> tuple[str, Iterable[Candidate]]:
    if not line.args:
        return line.typed, _commands(line.typed, commands)
    command = commands.get(line.args[0])
    if command is None:
        return line.typed, ()
    options = _Options(command, _flags(line) if command.flags_of == SERVE else None)
    flag, equals, value = line.typed.partition("=")
    if flag.startswith("-") and equals:
        return value, options.values(flag, value)
    return line.typed, _argument_candidates(line, command, options, commands)


def _argument_candidates(
    line: TypedLine,
    command: CommandDeclaration,
    options: _Options,
    commands: Mapping[str, CommandDeclaration],
) -> Iterable[Candidate]:
    """Return the candidates for an argument that is not ``--flag=value``."""
    before = line.args[1:]
    positional = list(options.positionals(before))
    if command.actions and not positional:
        return [
            Candidate(action.name, action.about)
            for action in command.actions
            if action.name.startswith(line.typed)
        ]
    if line.typed.startswith("-"):
        return options.flags(line.typed, with_vllm=bool(positional))
    if before and options.takes_value(before[-1]):
        return options.values(before[-1], line.typed)
    candidates: list[Candidate] = []
    if argument := _argument(command, positional):
        candidates += _values(argument, line, commands)
    if not line.typed:
        candidates += options.flags("", with_vllm=bool(positional))
    return candidates


def _commands(typed: str, commands: Mapping[str, CommandDeclaration]) -> list[Candidate]:
    return [
        Candidate(name, command.about)
        for name, command in commands.items()
        if name != CELL and name.startswith(typed)
    ]


def _argument(command: CommandDeclaration, given: list[str]) -> Argument | None:
    """Return the positional argument that follows the given ones; None if all are given.

    If the command has actions, the first given argument is the name of an action.
    """
    arguments = command.arguments
    if command.actions:
        name, *given = given
        arguments = next((action.arguments for action in command.actions if action.name == name), ())
    return arguments[len(given)] if len(given) < len(arguments) else None


def _values(
    argument: Argument, line: TypedLine, commands: Mapping[str, CommandDeclaration]
) -> Iterable[Candidate]:
    """Return the values of a positional argument that begin with the typed text."""
    if argument.kind is ValueKind.COMMAND:
        return _commands(line.typed, commands)
    if argument.kind is ValueKind.ADAPTER:
        return values.adapters(flags.value(line.args, "--server"), line.typed)
    return values.of_kind(argument.kind, line.typed)


@dataclass(frozen=True)
class _KnownFlags:
    """The flags of vLLM that are offered.

    Attributes:
        table: the flags.
        note: a note that is shown with each flag; "" for none.
    """

    table: FlagTable
    note: str = ""


def _flags(line: TypedLine) -> _KnownFlags:
    """Return the flags of the vLLM that would run.

    If they are not known yet, begin to read them, and return the flags that most versions of vLLM have. If they cannot be
    read, the note says so.
    """
    from vllm_magic.engine.flags.common_flags import COMMON

    with suppress(ExecutableNotFound, InvalidOption):
        version = flags.value(line.args, "--vllm")
        named = environments.named(version).executable if version else flags.value(line.args, "--executable")
        path = executable.find(named or line.executable)
        if known := flag_table.load(path):
            return _KnownFlags(known)
        if flag_table.failure(path):
            return _KnownFlags(COMMON, UNREAD)
        from vllm_magic.children import flag_reading  # its import is slow

        flag_reading.table(path)
    return _KnownFlags(COMMON)


class _Options:
    """The options of a command, and the flags of vLLM if they may follow."""

    def __init__(self, command: CommandDeclaration, known: _KnownFlags | None) -> None:
        self._own = {option.flag: option for option in command.options}
        self._table = known.table if known else None
        self._note = known.note if known else ""

    def _of_vllm(self, flag: str) -> FlagOption | None:
        return self._table.find(flag) if self._table else None

    def takes_value(self, flag: str) -> bool:
        """Whether the next argument is the value of this flag."""
        option = self._own.get(flag) or self._of_vllm(flag)
        return option is not None and option.takes_value

    def values(self, flag: str, typed: str) -> Iterable[Candidate]:
        """Return the values of this flag that begin with the typed text; none for an unknown flag."""
        if own := self._own.get(flag):
            return values.of_option(own, typed)
        of_vllm = self._of_vllm(flag)
        return values.of_vllm(of_vllm, typed) if of_vllm else ()

    def positionals(self, args: tuple[str, ...]) -> Iterator[str]:
        """Yield the arguments that are neither a flag nor the value of a flag."""
        rest = iter(args)
        for arg in rest:
            if not arg.startswith("-"):
                yield arg
            elif self.takes_value(arg):
                next(rest, None)

    def flags(self, typed: str, *, with_vllm: bool) -> Iterator[Candidate]:
        """Yield the flags that begin with the typed text: those of the command, then those of vLLM.

        vLLM accepts "_" in place of "-": if the typed text has a "_", the flags of vLLM are spelled with it.
        """
        for flag, option in self._own.items():
            if flag.startswith(typed):
                yield Candidate(flag, option.about)
        if self._table is None or not with_vllm:
            return
        shown = [(string, option) for option in self._table.options for string in option.strings]
        for string, of_vllm in sorted(shown, key=_long_first):
            if string.startswith(plain(typed)) and string not in (*self._own, *NOT_OFFERED):
                rest = string[len(typed) :]
                yield Candidate(
                    typed + (rest.replace("-", "_") if "_" in typed else rest), _about(of_vllm, self._note)
                )


def _long_first(entry: tuple[str, FlagOption]) -> tuple[bool, str]:
    return not entry[0].startswith("--"), entry[0]


def _about(option: FlagOption, note: str) -> str:
    return " · ".join(filter(None, (option.kind, note, option.help)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_ABOUT else f"{text[: LONGEST_ABOUT - 1].rstrip()}…"
