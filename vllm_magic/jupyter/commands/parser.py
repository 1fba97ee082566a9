"""How the words behind ``%vllm`` are read: argparse, with errors of ours and times as people write them."""

from __future__ import annotations

import argparse
from typing import NoReturn

from vllm_magic import durations
from vllm_magic.errors import InvalidOption

CELL = "%%vllm"  # the magic of a cell, among the names of the commands


def line(command: str) -> str:
    """The beginning of a line with this command: ``%vllm stop``."""
    return command if command == CELL else f"%vllm {command}"


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit.

    Args:
        command: the name of the command, for its errors.
    """

    def __init__(
        self, command: str, **_: object
    ) -> None:  # argparse has more to say to the parser of an action
        super().__init__(prog=line(command), add_help=False, allow_abbrev=False)
        self._command = command

    def error(self, message: str) -> NoReturn:
        """Raise it as an error of ours."""
        raise InvalidOption(f"{message[:1].upper()}{message[1:]}. See %vllm help {self._command}.")


def seconds(text: str) -> float:
    """A time, as the type of an argument."""
    try:
        return durations.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: 90, 90s, 30m or 1h30m") from None


def assignment(text: str) -> tuple[str, str]:
    """A variable and its value, as the type of an argument."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("write NAME=VALUE")  # not quoted: it may be a secret
    return name, value
