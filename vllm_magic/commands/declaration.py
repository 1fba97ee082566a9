"""The declaration of a command: its name, its arguments and its help.

Parsers, completion, the help of both front ends and the tables in the README are made from declarations. What a command
does is not part of its declaration: each front end adds that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.front_end import NOTEBOOK, FrontEnd
from vllm_magic.commands.parser import Parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


class ValueKind(Enum):
    """The kind of a value, by which completion chooses what it offers."""

    TEXT = auto()
    COMMAND = auto()
    SERVER = auto()  # a server of this kernel that is not over
    KNOWN_SERVER = auto()  # a server of this kernel, also one that is over
    KEPT_SERVER = auto()  # a server that waits for a new kernel
    ADAPTER = auto()  # a LoRA adapter that a server has loaded
    MODEL = auto()
    MODEL_OR_SERVER = auto()  # a model, or a known server in its place
    GPUS = auto()
    VLLM = auto()  # a version of vLLM that is installed in an environment of its own
    FILE = auto()
    FOLDER = auto()


@dataclass(frozen=True)
class Argument:
    """A positional argument, such as NAME in ``%vllm stop NAME``.

    Attributes:
        metavar: the argument in the help; in small letters, the name of the parsed value.
        about: what it is, in one line.
        kind: the kind of its value.
        required: whether it must be given.
        type: the converter from text to the value.
    """

    metavar: str
    about: str
    kind: ValueKind = ValueKind.TEXT
    required: bool = False
    type: Callable[[str], Any] = str

    @property
    def usage(self) -> str:
        """The argument in a usage line."""
        return self.metavar if self.required else f"[{self.metavar}]"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the argument to a parser."""
        nargs = None if self.required else "?"
        parser.add_argument(self.metavar.lower(), metavar=self.metavar, nargs=nargs, type=self.type)


@dataclass(frozen=True)
class CommandOption:
    """An option, such as ``--grace TIME``.

    Attributes:
        flag: the flag.
        about: what the option does, in one line.
        metavar: the value in the help; "" for an option without a value.
        details: further sentences for the page of the command.
        short: a second flag of one letter; "" for none.
        dest: the name of the parsed value; "" for the flag without its dashes.
        type: the converter from text to the value.
        default: the value if the option is not given.
        choices: the allowed values; () for any.
        kind: the kind of its value.
        repeated: whether the option may be given several times; its value is then a list.
    """

    flag: str
    about: str
    metavar: str = ""
    details: str = ""
    short: str = ""
    dest: str = ""
    type: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[Any, ...] = ()
    kind: ValueKind = ValueKind.TEXT
    repeated: bool = False

    @property
    def usage(self) -> str:
        """The option in the help."""
        return " ".join(filter(None, (f"{self.short}," if self.short else "", self.flag, self.metavar)))

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the flag."""
        return bool(self.metavar)

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a parser."""
        flags = [flag for flag in (self.short, self.flag) if flag]
        named: dict[str, Any] = {"dest": self.dest} if self.dest else {}
        if not self.takes_value:
            parser.add_argument(*flags, action="store_true", **named)
            return
        parser.add_argument(
            *flags,
            action="append" if self.repeated else "store",
            type=self.type,
            default=[] if self.repeated else self.default,
            choices=self.choices or None,
            **named,
        )


@dataclass(frozen=True)
class CommandAction:
    """A part of a command with arguments of its own, such as ``load`` in ``%vllm lora load NAME FOLDER``."""

    name: str
    about: str
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class CommandDeclaration:
    """A sub-command of ``%vllm`` or ``vllm-magic``, or the cell magic ``%%vllm``.

    Attributes:
        name: the name, which follows the name of the program in a line.
        about: what the command does, in one line.
        details: further sentences for the page of the command.
        arguments: the positional arguments.
        options: the options; each action takes them too.
        actions: the actions, one of which the first argument names.
        default_action: the action if none is named; "" if one must be named.
        flags_of: the command of vLLM whose flags may follow; "" for none.
        like: the command with the same options, which the list of all commands does not repeat; "" for none.
        examples: lines that can be run.
        link: the place in the README, or the page beside it, that says more; "" for none.
        front_end: where the command is written.
    """

    name: str
    about: str
    details: str = ""
    arguments: tuple[Argument, ...] = ()
    options: tuple[CommandOption, ...] = ()
    actions: tuple[CommandAction, ...] = ()
    default_action: str = ""
    flags_of: str = ""
    like: str = ""
    examples: tuple[str, ...] = ()
    link: str = ""
    front_end: FrontEnd = NOTEBOOK

    @property
    def line(self) -> str:
        """The beginning of a line with the command."""
        return self.front_end.line(self.name)

    def at(self, front_end: FrontEnd) -> CommandDeclaration:
        """Return the declaration for another front end. Its texts then name the program of that front end."""
        here, there = self.front_end.program, front_end.program
        return replace(
            self,
            details=self.details.replace(here, there),
            examples=tuple(example.replace(here, there) for example in self.examples),
            front_end=front_end,
        )

    def parser(self) -> Parser:
        """Return a parser for the arguments."""
        parser = self.front_end.parser(self.name)
        if not self.actions:
            _add(parser, self.arguments, self.options)
            return parser
        *first, last = [action.name for action in self.actions]
        actions = parser.add_subparsers(
            dest="action",
            required=not self.default_action,
            metavar=f"{', '.join(first)} or {last}",
            parser_class=Parser,
        )
        for action in self.actions:
            below = actions.add_parser(action.name, help_line=self.front_end.help_line(self.name))
            _add(below, action.arguments, self.options)
        if self.default_action:
            parser.set_defaults(action=self.default_action)
        return parser

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        """Parse the text arguments after the name of the command.

        Raises:
            InvalidOption: an argument is missing, unknown or not valid.
        """
        return self.parser().parse_args(list(args))


def _add(
    parser: argparse.ArgumentParser, arguments: Sequence[Argument], options: Sequence[CommandOption]
) -> None:
    for argument in arguments:
        argument.add_to(parser)
    for option in options:
        option.add_to(parser)
