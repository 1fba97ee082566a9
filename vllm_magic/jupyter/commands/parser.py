"""The sub-commands of ``%vllm``, and what reading their words has in common."""

from __future__ import annotations

import argparse
import difflib
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

from vllm_magic import durations
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence


class Verb(str, Enum):
    """The sub-commands."""

    PANEL = "panel"
    START = "start"
    ATTACH = "attach"
    STOP = "stop"
    RESTART = "restart"
    SWITCH = "switch"
    SPARE = "spare"
    SLEEP = "sleep"
    WAKE = "wake"
    STATUS = "status"
    LOGS = "logs"
    FIT = "fit"
    METRICS = "metrics"
    PLOT = "plot"
    BENCH = "bench"
    LORA = "lora"
    MODELS = "models"
    PULL = "pull"
    GPU = "gpu"
    CLUSTER = "cluster"
    DOCTOR = "doctor"
    REAP = "reap"
    HELP = "help"


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def __init__(self, verb: Verb | None = None) -> None:
        prog = f"%vllm {verb.value}" if verb else "%%vllm"
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say it as an error of ours."""
        raise InvalidOption(f"{message[:1].upper()}{message[1:]}. See %vllm help.")


def verb(words: Sequence[str]) -> Verb:
    """Which sub-command; ``%vllm`` alone is ``status``.

    Raises:
        InvalidOption: none of them.
    """
    if not words:
        return Verb.STATUS
    if {"-h", "--help"} & set(words):
        return Verb.HELP
    try:
        return Verb(words[0])
    except ValueError:
        near = difflib.get_close_matches(words[0], [verb.value for verb in Verb], n=1)
        meant = f" Did you mean %vllm {near[0]}?" if near else ""
        raise InvalidOption(f"%vllm has no {words[0]!r}.{meant} See %vllm help.") from None


def nothing(verb: Verb, words: Sequence[str]) -> None:
    """Check that no word is left.

    Raises:
        InvalidOption: one is.
    """
    Parser(verb).parse_args(list(words))


def name_only(verb: Verb, words: Sequence[str]) -> str | None:
    """The name of a server, where nothing else can follow; None without one.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(verb)
    parser.add_argument("name", nargs="?")
    name: str | None = parser.parse_args(list(words)).name
    return name


def seconds(text: str) -> float:
    """A time, as the type of an argument."""
    try:
        return durations.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: 90, 90s, 30m or 1h30m") from None
