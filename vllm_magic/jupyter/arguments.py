"""The words behind ``%vllm`` as what they ask for.

Own options are taken out; every other word of ``start`` goes to vLLM as it stands. (``magic_arguments`` and
argparse's ``parse_known_args`` cannot do that: the value behind an unknown flag would pass for the model.)
"""

from __future__ import annotations

import argparse
import difflib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

from vllm_magic import durations
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Verb(str, Enum):
    """The sub-commands."""

    START = "start"
    ATTACH = "attach"
    STOP = "stop"
    RESTART = "restart"
    STATUS = "status"
    LOGS = "logs"
    FIT = "fit"
    GPU = "gpu"
    DOCTOR = "doctor"
    REAP = "reap"
    HELP = "help"


VALUED = ("--name", "--port", "--gpus", "--executable", "--env", "--keep", "--ttl", "--timeout")  # of `start`


@dataclass(frozen=True)
class StartWords:
    """``timeout`` in seconds, None for as long as it takes."""

    spec: ServerSpec
    wait: bool
    timeout: float | None


@dataclass(frozen=True)
class StopWords:
    """``grace`` and ``drain`` in seconds."""

    name: str | None
    every: bool
    grace: float | None
    drain: float


@dataclass(frozen=True)
class LogsWords:
    """``count`` lines."""

    name: str | None
    count: int


@dataclass(frozen=True)
class ReapWords:
    """``pids`` of processes that nobody owns, () for what dead kernels left; ``sure`` to end and not only show them."""

    pids: tuple[int, ...]
    sure: bool


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(prog=f"%vllm {verb.value}", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InvalidOption(f"{message[:1].upper()}{message[1:]}. See %vllm help.")


def verb(words: Sequence[str]) -> Verb:
    """Which sub-command; ``%vllm`` alone is ``status``.

    Raises:
        InvalidOption: none of them.
    """
    if not words:
        return Verb.STATUS
    if {"-h", "--help"} & set(words[:2]):
        return Verb.HELP
    try:
        return Verb(words[0])
    except ValueError:
        near = difflib.get_close_matches(words[0], [verb.value for verb in Verb], n=1)
        meant = f" Did you mean %vllm {near[0]}?" if near else ""
        raise InvalidOption(f"%vllm has no {words[0]!r}.{meant} See %vllm help.") from None


def start(words: Sequence[str], executable: str | None = None) -> StartWords:
    """The words behind ``start``; ``executable`` is the configured one, or None.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.START)
    parser.add_argument("--name", default="")
    parser.add_argument("--port", type=int)
    parser.add_argument("--gpus")
    parser.add_argument("--executable", default=executable)
    parser.add_argument("--env", action="append", default=[], type=_assignment)
    parser.add_argument("--keep", type=_seconds)
    parser.add_argument("--ttl", type=_seconds)
    parser.add_argument("--timeout", type=_seconds)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--no-wait", action="store_true")
    own, rest = _separate(words, valued=VALUED)
    found = parser.parse_args(own)
    if not rest or rest[0].startswith("-"):
        raise InvalidOption("Which model? Write it first, then vLLM's flags: %vllm start MODEL [flags].")
    spec = ServerSpec(
        model=rest[0],
        args=tuple(rest[1:]),
        name=found.name,
        gpus=found.gpus,
        port=found.port,
        executable=found.executable or None,
        ttl=found.ttl,
        force=found.force,
        env=tuple(sorted(dict(found.env).items())),
        keep=found.keep,
    )
    return StartWords(spec, not found.no_wait, found.timeout)


def fit(words: Sequence[str]) -> ServerSpec:
    """What would be started with the words behind ``fit``, which are those of ``start``.

    Raises:
        InvalidOption: a word does not fit.
    """
    if not words or words[0].startswith("-"):
        raise InvalidOption("Which model? Write it first, then vLLM's flags: %vllm fit MODEL [flags].")
    return start(words).spec


def attach(words: Sequence[str]) -> str | None:
    """The name behind ``attach``, or None."""
    return _name_only(Verb.ATTACH, words)


def restart(words: Sequence[str]) -> str | None:
    """The name behind ``restart``, or None."""
    return _name_only(Verb.RESTART, words)


def status(words: Sequence[str]) -> str | None:
    """The name behind ``status``, or None."""
    return _name_only(Verb.STATUS, words)


def stop(words: Sequence[str]) -> StopWords:
    """The words behind ``stop``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.STOP)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--grace", type=_seconds)
    parser.add_argument("--drain", type=_seconds, default=0.0)
    found = parser.parse_args(list(words))
    if found.all and found.name:
        raise InvalidOption(f"Stop {found.name}, or --all? Leave one of them out.")
    return StopWords(found.name, found.all, found.grace, found.drain)


def logs(words: Sequence[str]) -> LogsWords:
    """The words behind ``logs``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.LOGS)
    parser.add_argument("name", nargs="?")
    parser.add_argument("-n", type=int, default=50)
    found = parser.parse_args(list(words))
    if found.n < 1:
        raise InvalidOption(f"-n {found.n}: how many lines? Use 1 or more.")
    return LogsWords(found.name, found.n)


def reap(words: Sequence[str]) -> ReapWords:
    """The words behind ``reap``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.REAP)
    parser.add_argument("--pid", type=int, action="append", default=[])
    parser.add_argument("--yes", action="store_true")
    found = parser.parse_args(list(words))
    return ReapWords(tuple(dict.fromkeys(found.pid)), found.yes)


def nothing(verb: Verb, words: Sequence[str]) -> None:
    """Check that no word is left.

    Raises:
        InvalidOption: one is.
    """
    _Parser(verb).parse_args(list(words))


def _name_only(verb: Verb, words: Sequence[str]) -> str | None:
    parser = _Parser(verb)
    parser.add_argument("name", nargs="?")
    name: str | None = parser.parse_args(list(words)).name
    return name


def _separate(words: Sequence[str], valued: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own options, and the rest; what stands behind ``--`` is not looked at."""
    own: list[str] = []
    rest: list[str] = []
    pending = iter(words)
    for word in pending:
        flag, equals, _ = word.partition("=")
        if word == "--":
            rest.extend(pending)
        elif flag in valued:
            # Joined by "=", a value that begins with a dash is still a value.
            own.append(word if equals else f"{word}={_next(pending, word)}")
        elif flag in ("--force", "--no-wait"):
            own.append(word)
        else:
            rest.append(word)
    return own, rest


def _next(words: Iterator[str], flag: str) -> str:
    value = next(words, None)
    if value is None:
        raise InvalidOption(f"{flag} needs a value: {flag} VALUE.")
    return value


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("write NAME=VALUE")  # not quoted: it may be a secret
    return name, value


def _seconds(text: str) -> float:
    try:
        return durations.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: 90, 90s, 30m or 1h30m") from None
