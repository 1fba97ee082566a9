"""What a command of ``%vllm`` is: one object with its name, its arguments, what it does, and what is told of it.

The parser, completion, ``%vllm help`` and the table in the README are made of these objects.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.parser import CELL, Parser, line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from vllm_magic.jupyter.commands.context import Context

ParsedT = TypeVar("ParsedT")


class ValueKind(Enum):
    """What a value is. Completion offers what there is of it."""

    TEXT = auto()
    COMMAND = auto()
    SERVER = auto()  # of this kernel
    KNOWN_SERVER = auto()  # of this kernel, also one that is over
    KEPT_SERVER = auto()  # of a kernel that is gone
    ADAPTER = auto()  # that a server has loaded
    MODEL = auto()
    GPUS = auto()
    FILE = auto()
    FOLDER = auto()


@dataclass(frozen=True)
class Argument:
    """An argument by its place, as NAME in ``%vllm stop NAME``.

    Attributes:
        metavar: how the help writes it; in small letters it is the name of the parsed value.
        about: what it is, in one line.
        kind: of its value.
        required: whether it has to be there.
    """

    metavar: str
    about: str
    kind: ValueKind = ValueKind.TEXT
    required: bool = False

    @property
    def usage(self) -> str:
        """How the help writes it in a line."""
        return self.metavar if self.required else f"[{self.metavar}]"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare it."""
        parser.add_argument(self.metavar.lower(), metavar=self.metavar, nargs=None if self.required else "?")


@dataclass(frozen=True)
class CommandOption:
    """An argument with a flag, as ``--grace TIME``.

    Attributes:
        flag: the flag.
        about: what it does, in one line.
        metavar: how the help writes its value; "" for an option without a value.
        details: sentences for whoever wants to know more.
        dest: the name of the parsed value; "" for the flag without its dashes.
        type: makes the value of its text.
        default: the value where the option is not given.
        choices: the values that it can have; () for any.
        kind: of its value.
        repeated: whether it can be given several times; its value is a list then.
    """

    flag: str
    about: str
    metavar: str = ""
    details: str = ""
    dest: str = ""
    type: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[Any, ...] = ()
    kind: ValueKind = ValueKind.TEXT
    repeated: bool = False

    @property
    def usage(self) -> str:
        """How the help writes it."""
        return f"{self.flag} {self.metavar}".rstrip()

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the flag."""
        return bool(self.metavar)

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare it."""
        named: dict[str, Any] = {"dest": self.dest} if self.dest else {}
        if not self.takes_value:
            parser.add_argument(self.flag, action="store_true", **named)
            return
        parser.add_argument(
            self.flag,
            action="append" if self.repeated else "store",
            type=self.type,
            default=[] if self.repeated else self.default,
            choices=self.choices or None,
            **named,
        )


@dataclass(frozen=True)
class Action:
    """One of the things that a command can do, as ``load`` in ``%vllm lora load NAME FOLDER``."""

    name: str
    about: str
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class ServerName:
    """The argument of a command for one server; None for the only one."""

    name: str | None = None


@dataclass(frozen=True)
class NoArguments:
    """Of a command that takes none."""


class SubCommand(ABC, Generic[ParsedT]):
    """A sub-command of ``%vllm``, or ``%%vllm`` itself. It holds no state: there is one object of each.

    Attributes:
        name: the word behind ``%vllm``.
        about: what the command does, in one line.
        details: sentences for whoever wants to know more.
        arguments: those by their place.
        options: those with a flag; an action takes them as well.
        actions: of which the first argument names one.
        default_action: the one where none is named; "" where one has to be named.
        flags_of: the command of vLLM whose flags can follow; "" for none.
        like: the command that has the same options; the list of all commands does not repeat them.
        examples: lines that can be run.
        link: where the README, or a page beside it, tells more.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    details: ClassVar[str] = ""
    arguments: ClassVar[tuple[Argument, ...]] = ()
    options: ClassVar[tuple[CommandOption, ...]] = ()
    actions: ClassVar[tuple[Action, ...]] = ()
    default_action: ClassVar[str] = ""
    flags_of: ClassVar[str] = ""
    like: ClassVar[str] = ""
    examples: ClassVar[tuple[str, ...]] = ()
    link: ClassVar[str] = ""

    @abstractmethod
    def parse(self, words: Sequence[str]) -> ParsedT:
        """What the words behind the name ask for.

        Raises:
            InvalidOption: a word does not fit.
        """

    @abstractmethod
    def run(self, context: Context, arguments: ParsedT) -> Any:
        """Do it, and return what the cell shows."""

    @property
    def line(self) -> str:
        """How a line with the command begins."""
        return line(self.name)

    def parser(self) -> Parser:
        """A parser for the arguments."""
        parser = Parser(self.name)
        if not self.actions:
            _declare(parser, self.arguments, self.options)
            return parser
        *first, last = [action.name for action in self.actions]
        actions = parser.add_subparsers(
            dest="action",
            required=not self.default_action,
            metavar=f"{', '.join(first)} or {last}",
            parser_class=Parser,
        )
        for action in self.actions:
            _declare(actions.add_parser(action.name, command=self.name), action.arguments, self.options)
        if self.default_action:
            parser.set_defaults(action=self.default_action)
        return parser

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Each parsed value by its name.

        Raises:
            InvalidOption: a word does not fit.
        """
        return vars(self.parser().parse_args(list(words)))


def _declare(
    parser: argparse.ArgumentParser, arguments: Sequence[Argument], options: Sequence[CommandOption]
) -> None:
    for argument in arguments:
        argument.add_to(parser)
    for option in options:
        option.add_to(parser)


def find(commands: Mapping[str, SubCommand[Any]], name: str, before: str = "%vllm") -> SubCommand[Any]:
    """The sub-command of this name.

    Args:
        commands: all of them, by their names.
        name: as it was written.
        before: what was written before it.

    Raises:
        InvalidOption: there is none.
    """
    known = [one for one in commands if one != CELL]
    if name in known:
        return commands[name]
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {before} {near[0]}?" if near else ""
    raise InvalidOption(f"%vllm has no {name!r}.{meant} See %vllm help.")


SERVER = Argument("NAME", "the server; it can be left out where there is only one", ValueKind.SERVER)
KNOWN_SERVER = Argument(
    "NAME",
    "the server, also one that is over; it can be left out where there is only one",
    ValueKind.KNOWN_SERVER,
)
