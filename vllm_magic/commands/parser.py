"""The parser of a command's arguments, and the converters from text to values.

Each converter is the ``type`` of an argument or option: it raises `argparse.ArgumentTypeError`, which the parser turns
into an `InvalidOption` that names the argument.
"""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from typing import NoReturn

from vllm_magic import durations
from vllm_magic.errors import InvalidOption


class Parser(argparse.ArgumentParser):
    """A parser that raises `InvalidOption` where argparse would print a message and exit.

    Args:
        prog: the command line up to the first argument, such as ``%vllm stop``.
        help_line: the command line that shows the help, which errors name.
    """

    # argparse passes further keyword arguments when it makes the parser of an action.
    def __init__(self, prog: str, help_line: str, **_: object) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)
        self._help_line = help_line

    def error(self, message: str) -> NoReturn:
        """Raise the message of argparse as an `InvalidOption`.

        Raises:
            InvalidOption: always.
        """
        raise InvalidOption(f"{message[:1].upper()}{message[1:]}. See {self._help_line}.")


def seconds(text: str) -> float:
    """Convert a length of time to seconds.

    Raises:
        ArgumentTypeError: the text is not a length of time.
    """
    try:
        return durations.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: 90, 90s, 30m or 1h30m") from None


def integer(text: str) -> int:
    """Convert a whole number.

    Raises:
        ArgumentTypeError: the text is not a whole number.
    """
    with suppress(ValueError):  # raised also for more digits than Python converts
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


def number(text: str) -> float:
    """Convert a number.

    Raises:
        ArgumentTypeError: the text is not a number, or it is infinite.
    """
    with suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number")


def positive_integer(text: str) -> int:
    """Convert a count or a pid.

    Raises:
        ArgumentTypeError: the text is not a whole number, or the number is less than 1.
    """
    with suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")


def server_name(text: str) -> str:
    """Check that the name of a server is not empty.

    Raises:
        ArgumentTypeError: the text is empty, or holds only spaces.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of a server is empty")
    return text


def assignment(text: str) -> tuple[str, str]:
    """Convert ``NAME=VALUE`` to the name and the value of an environment variable.

    Raises:
        ArgumentTypeError: the name or the equals sign is missing.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("write NAME=VALUE")  # the text is not quoted: it may be a secret
    return name, value
