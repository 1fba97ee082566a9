"""What is told of the commands: the list of all, the page of one, and the table in the README."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllm_magic.jupyter.commands.base import CommandOption, SubCommand

LEFT = 27  # characters for what can be written; two blanks, and what it means, follow
WIDTH = 126  # characters of a line
BELOW = " " * 6  # stands before what belongs to the line above

ALONE = "%vllm"
ALONE_ABOUT = "the servers of this kernel"
NOTES = """\
NAME can be left out where there is only one. {name} and $name put in variables of the notebook ($$ is a
dollar sign), but not in the cell below %%vllm, which is sent as it stands. TIME is 90, 90s, 30m or 1h30m.
`server = %vllm start ...` keeps the server: server.base_url, server.api_key, server.stop().
%vllm help COMMAND, or %vllm COMMAND --help, tells all about one command, with examples.
%config VllmMagics shows what can be set for each start: executable, flags, gpus, host, and the grace of each stop;
and whether there is a spare.
A profile is a table of ~/.config/vllm-magic/profiles.toml, of lines such as model = "ORG/MODEL", gpus = "0,1", ttl = "30m",
env = { NAME = "VALUE" }, flags = "--max-model-len 32768"; %vllm start --profile NAME uses it."""
TIME = "TIME is 90, 90s, 30m or 1h30m."

# What is code in the README: a flag, a variable, a magic, what stands for a value.
_CODE = re.compile(r"(?<![\w-])(?:--?[a-z][a-z-]*(?: [A-Z]+\b)?|\$[A-Z_]+|%%?vllm(?: [a-z]+\b)?|\{name\})")


@dataclass(frozen=True)
class _Row:
    """What can be written, and what it means; ``below`` for what belongs to the row above."""

    usage: str
    about: str
    details: str = ""
    below: bool = False


def overview(commands: Iterable[SubCommand[Any]]) -> list[str]:
    """The lines of ``%vllm help``."""
    rows = [_Row(ALONE, ALONE_ABOUT), *(row for command in commands for row in _rows(command))]
    return [*(line for row in rows for line in _lines(row, row.about)), "", *NOTES.splitlines()]


def page(command: SubCommand[Any]) -> list[str]:
    """The lines of ``%vllm help COMMAND``."""
    words = [one.usage for one in command.arguments]
    if command.actions:
        words = [" | ".join(usage for usage, _ in _actions(command))]
    words += ["[options]"] if command.options else []
    words += ["[flags]"] if command.flags_of else []
    rows = [_Row(usage, about, below=True) for usage, about in _actions(command)]
    rows += [_Row(one.metavar, one.about, below=True) for one in command.arguments]
    rows += map(_option, command.options)
    parts = [
        [" ".join((command.line, *words))],
        _wrapped(" ".join(filter(None, (_sentence(command.about), command.details)))),
        [line for row in rows for line in _lines(row, _told(row))],
        _flags(command),
        [TIME] if any(option.metavar == "TIME" for option in command.options) else [],
        ["Examples:", *textwrap.indent("\n".join(command.examples), "  ").splitlines()],
    ]
    return [line for part in parts if part for line in ("", *part)][1:]


def readme_table(commands: Iterable[SubCommand[Any]]) -> str:
    """The table of the magics in README.md, in Markdown."""
    lines = ["| | |", "|---|---|", _markdown(_Row(ALONE, f"{ALONE_ABOUT}: state, URL, age, VRAM"))]
    for command in commands:
        first, *others = _rows(command)
        link = f" ([more]({command.link}))" if command.link else ""
        lines += [_markdown(first, link), *map(_markdown, others)]
    return "\n".join(lines)


def _rows(command: SubCommand[Any]) -> Iterator[_Row]:
    """What the list says of a command: a row for it, or one for each action, and one for each option."""
    if command.actions:
        first, *others = _actions(command)
        yield _Row(f"{command.line} {first[0]}", first[1], command.details)
        for usage, about in others:
            yield _Row(f"{command.line} {usage}", about)
    else:
        flags = ["[flags]"] if command.flags_of else []
        usage = " ".join((command.line, *(one.usage for one in command.arguments), *flags))
        yield _Row(usage, command.about, command.details)
    if not command.like:
        yield from map(_option, command.options)


def _actions(command: SubCommand[Any]) -> list[tuple[str, str]]:
    return [
        (" ".join((one.name, *(argument.usage for argument in one.arguments))), one.about)
        for one in command.actions
    ]


def _flags(command: SubCommand[Any]) -> list[str]:
    other = "Each other flag" if command.options else "Each flag"
    return [f"{other} goes to `{command.flags_of}` as it stands."] if command.flags_of else []


def _option(option: CommandOption) -> _Row:
    return _Row(option.usage, option.about, option.details, below=True)


def _lines(row: _Row, told: str) -> list[str]:
    """A row, in as many lines as it takes."""
    left = f"{BELOW if row.below else ''}{row.usage}".ljust(LEFT)
    return _wrapped(told, f"{left}  ", " " * (LEFT + 2))


def _wrapped(text: str, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _told(row: _Row) -> str:
    return f"{row.about}. {row.details}" if row.details else row.about


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _markdown(row: _Row, link: str = "") -> str:
    parts = _told(row).split("`")  # every other one is code already
    told = "`".join(part if at % 2 else _CODE.sub(r"`\g<0>`", part) for at, part in enumerate(parts))
    below = "&nbsp;&nbsp;" if row.below else ""
    return f"| {below}`{_cell(row.usage)}` | {_cell(told)}{link} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
