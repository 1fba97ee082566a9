"""The help as text: the list of all commands, the page of one command, and the tables in the README."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllm_magic.commands.declaration import CommandDeclaration, CommandOption
    from vllm_magic.commands.front_end import FrontEnd

LEFT = 28  # characters of the left column, which holds the usage; two spaces follow
INDENT = " " * 6  # before a row that belongs to the row above
TIME = "TIME is 90, 90s, 30m or 1h30m."

# Code in the text of the README: a flag, a variable, a command, a word in capitals that stands for a value.
_CODE = re.compile(
    r"(?<![\w-])(?:--?[a-z][a-z-]*(?: [A-Z]+\b)?|\$[A-Z_]+|%%?vllm(?: [a-z]+\b)?|vllm-magic [a-z]+\b|\{name\})"
)


@dataclass(frozen=True)
class _Row:
    """A row of the help; ``below`` for a row that belongs to the row above."""

    usage: str
    about: str
    details: str = ""
    below: bool = False

    @property
    def text(self) -> str:
        """The right column with the details."""
        return f"{self.about}. {self.details}" if self.details else self.about


def overview(front_end: FrontEnd, commands: Iterable[CommandDeclaration]) -> list[str]:
    """Return the lines of ``%vllm help`` or ``vllm-magic help``."""
    rows = [
        _Row(front_end.program, front_end.alone),
        *(row for command in commands for row in _rows(command)),
    ]
    listed = [line for row in rows for line in _lines(row, row.about, front_end.width)]
    return [*listed, "", *front_end.notes.splitlines()]


def page(command: CommandDeclaration) -> list[str]:
    """Return the lines of ``%vllm help COMMAND`` or ``vllm-magic help COMMAND``."""
    width = command.front_end.width
    usage = [argument.usage for argument in command.arguments]
    if command.actions:
        usage = [" | ".join(action for action, _ in _actions(command))]
    usage += ["[options]"] if command.options else []
    usage += ["[flags]"] if command.flags_of else []
    rows = [_Row(action, about, below=True) for action, about in _actions(command)]
    rows += [_Row(argument.metavar, argument.about, below=True) for argument in command.arguments]
    rows += map(_option, command.options)
    parts = [
        [" ".join((command.line, *usage))],
        _wrapped(" ".join(filter(None, (_sentence(command.about), command.details))), width),
        [line for row in rows for line in _lines(row, row.text, width)],
        _flags(command),
        [TIME] if any(option.metavar == "TIME" for option in command.options) else [],
        ["Examples:", *textwrap.indent("\n".join(command.examples), "  ").splitlines()],
    ]
    return [line for part in parts if part for line in ("", *part)][1:]


def readme_table(front_end: FrontEnd, commands: Iterable[CommandDeclaration]) -> str:
    """Return the table of these commands for README.md, in Markdown."""
    lines = ["| | |", "|---|---|", _markdown(_Row(front_end.program, front_end.alone))]
    for command in commands:
        first, *others = _rows(command)
        link = f" ([more]({command.link}))" if command.link else ""
        lines += [_markdown(first, link), *map(_markdown, others)]
    return "\n".join(lines)


def _rows(command: CommandDeclaration) -> Iterator[_Row]:
    """Yield a row for the command, or one for each of its actions, and one for each of its options."""
    if command.actions:
        first, *others = _actions(command)
        yield _Row(f"{command.line} {first[0]}", first[1], command.details)
        for usage, about in others:
            yield _Row(f"{command.line} {usage}", about)
    else:
        flags = ["[flags]"] if command.flags_of else []
        usage = " ".join((command.line, *(argument.usage for argument in command.arguments), *flags))
        yield _Row(usage, command.about, command.details)
    if not command.like:
        yield from map(_option, command.options)


def _actions(command: CommandDeclaration) -> list[tuple[str, str]]:
    """Return the usage of each action, and what the action does."""
    return [
        (" ".join((action.name, *(argument.usage for argument in action.arguments))), action.about)
        for action in command.actions
    ]


def _flags(command: CommandDeclaration) -> list[str]:
    other = "Each other flag" if command.options else "Each flag"
    return [f"{other} goes to `{command.flags_of}` unchanged."] if command.flags_of else []


def _option(option: CommandOption) -> _Row:
    return _Row(option.usage, option.about, option.details, below=True)


def _lines(row: _Row, text: str, width: int) -> list[str]:
    """Return a row as lines, with this text in the right column."""
    left = f"{INDENT if row.below else ''}{row.usage}".ljust(LEFT)
    return _wrapped(text, width, f"{left}  ", " " * (LEFT + 2))


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _markdown(row: _Row, link: str = "") -> str:
    parts = row.text.split("`")  # every second part is code already
    text = "`".join(part if at % 2 else _CODE.sub(r"`\g<0>`", part) for at, part in enumerate(parts))
    below = "&nbsp;&nbsp;" if row.below else ""
    return f"| {below}`{_cell(row.usage)}` | {_cell(text)}{link} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
