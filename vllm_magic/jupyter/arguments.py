"""The words behind ``%vllm`` as what they ask for.

Own options are taken out; every other word of ``start`` goes to vLLM as it stands. (``magic_arguments`` and
argparse's ``parse_known_args`` cannot do that: the value behind an unknown flag would pass for the model.)
"""

from __future__ import annotations

import argparse
import difflib
import keyword
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

from vllm_magic import durations
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter import settings
from vllm_magic.jupyter.settings import NO_SETTINGS, Profile, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Verb(str, Enum):
    """The sub-commands."""

    START = "start"
    ATTACH = "attach"
    STOP = "stop"
    RESTART = "restart"
    SWITCH = "switch"
    SLEEP = "sleep"
    WAKE = "wake"
    STATUS = "status"
    LOGS = "logs"
    FIT = "fit"
    METRICS = "metrics"
    BENCH = "bench"
    LORA = "lora"
    MODELS = "models"
    PULL = "pull"
    GPU = "gpu"
    DOCTOR = "doctor"
    REAP = "reap"
    HELP = "help"


VALUED = (  # of `start`
    "--name",
    "--port",
    "--gpus",
    "--executable",
    "--env",
    "--keep",
    "--ttl",
    "--timeout",
    "--profile",
)


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
class PullWords:
    """``revision`` is a branch, tag or commit, None for the main one."""

    model: str
    revision: str | None


@dataclass(frozen=True)
class BenchWords:
    """``args`` are flags of ``vllm bench serve``."""

    name: str | None
    args: tuple[str, ...]


class LoraDeed(str, Enum):
    """What can be done with adapters."""

    LIST = "list"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class LoraWords:
    """``adapter`` and ``path`` are "" where they are not needed."""

    deed: LoraDeed
    adapter: str
    path: str
    server: str | None


@dataclass(frozen=True)
class SleepWords:
    """``level`` 1 keeps the weights in the machine's memory, 2 throws them away."""

    name: str | None
    level: int


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


@dataclass(frozen=True)
class AskWords:
    """Of ``%%vllm``: whom to ask, and how; ``variable`` gets the answer, ``schema`` as it was written."""

    name: str | None
    system: str | None
    temperature: float | None
    max_tokens: int | None
    variable: str | None
    schema: str | None
    history: bool
    new: bool


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def __init__(self, verb: Verb | None = None) -> None:
        prog = f"%vllm {verb.value}" if verb else "%%vllm"
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InvalidOption(f"{message[:1].upper()}{message[1:]}. See %vllm help.")


class _Lora(_Parser):
    """argparse makes it for each deed, with words of its own."""

    def __init__(self, **_: object) -> None:
        super().__init__(Verb.LORA)


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


def start(words: Sequence[str], defaults: Settings = NO_SETTINGS, verb: Verb = Verb.START) -> StartWords:
    """The words behind ``start`` or ``switch``, on top of those of its profile and of the defaults.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(verb)
    parser.add_argument("--name", default="")
    parser.add_argument("--port", type=int)
    parser.add_argument("--gpus")
    parser.add_argument("--executable")
    parser.add_argument("--env", action="append", default=[], type=_assignment)
    parser.add_argument("--keep", type=_seconds)
    parser.add_argument("--ttl", type=_seconds)
    parser.add_argument("--timeout", type=_seconds)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("--profile")
    own, rest = _separate(words, valued=VALUED)
    name = parser.parse_args(own).profile
    profile = settings.profile(name) if name else Profile("", ())
    model = rest.pop(0) if rest and not rest[0].startswith("-") else profile.model
    if not model:
        raise InvalidOption(
            f"Which model? Write it first, then vLLM's flags: %vllm {verb.value} MODEL [flags]."
        )
    before, flags = _separate([*defaults.words(), *profile.words], valued=VALUED)
    if flags and not flags[0].startswith("-"):
        raise InvalidOption(f"{flags[0]!r} among the default flags, or those of the profile, is no flag.")
    found = parser.parse_args([*before, *own])
    spec = ServerSpec(
        model=model,
        args=(*flags, *rest),
        name=found.name,
        gpus=found.gpus,
        port=found.port,
        executable=found.executable or None,
        ttl=found.ttl,
        force=found.force,
        env=tuple(sorted(dict(found.env).items())),
        keep=found.keep,
    )
    if verb is Verb.SWITCH and found.no_wait:
        raise InvalidOption("--no-wait: %vllm switch returns when the server is ready. Leave it out.")
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


def metrics(words: Sequence[str]) -> str | None:
    """The name behind ``metrics``, or None."""
    return _name_only(Verb.METRICS, words)


def wake(words: Sequence[str]) -> str | None:
    """The name behind ``wake``, or None."""
    return _name_only(Verb.WAKE, words)


def sleep(words: Sequence[str]) -> SleepWords:
    """The words behind ``sleep``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.SLEEP)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--level", type=int, choices=(1, 2), default=1)
    found = parser.parse_args(list(words))
    return SleepWords(found.name, found.level)


def lora(words: Sequence[str]) -> LoraWords:
    """The words behind ``lora``: ``list``, ``load NAME PATH`` or ``unload NAME``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.LORA)
    deeds = parser.add_subparsers(
        dest="deed", required=True, metavar="list, load or unload", parser_class=_Lora
    )
    for deed, named in (
        (LoraDeed.LIST, ()),
        (LoraDeed.LOAD, ("adapter", "path")),
        (LoraDeed.UNLOAD, ("adapter",)),
    ):
        one = deeds.add_parser(deed.value)
        one.set_defaults(adapter="", path="")
        one.add_argument("--server")
        for word in named:
            one.add_argument(word)
    found = parser.parse_args(list(words))
    return LoraWords(LoraDeed(found.deed), found.adapter, found.path, found.server)


def pull(words: Sequence[str]) -> PullWords:
    """The words behind ``pull``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.PULL)
    parser.add_argument("model")
    parser.add_argument("--revision")
    found = parser.parse_args(list(words))
    return PullWords(found.model, found.revision)


def bench(words: Sequence[str]) -> BenchWords:
    """The words behind ``bench``: a name first, if any, and everything else to vLLM as it stands."""
    if words and not words[0].startswith("-"):
        return BenchWords(words[0], tuple(words[1:]))
    return BenchWords(None, tuple(words))


def status(words: Sequence[str]) -> str | None:
    """The name behind ``status``, or None."""
    return _name_only(Verb.STATUS, words)


def stop(words: Sequence[str], grace: float | None = None) -> StopWords:
    """The words behind ``stop``; ``grace`` is the configured one.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser(Verb.STOP)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--grace", type=_seconds, default=grace)
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


def ask(words: Sequence[str]) -> AskWords:
    """The words behind ``%%vllm``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = _Parser()
    parser.add_argument("name", nargs="?")
    parser.add_argument("--system")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--as", dest="variable")
    parser.add_argument("--json", dest="schema")
    parser.add_argument("--history", action="store_true")
    parser.add_argument("--new", action="store_true")
    found = AskWords(**vars(parser.parse_args(list(words))))
    if found.name in {verb.value for verb in Verb}:
        raise InvalidOption(f"%%vllm asks a server; %vllm {found.name}, with one %, is a line of its own.")
    if found.variable is not None and (
        not found.variable.isidentifier() or keyword.iskeyword(found.variable)
    ):
        raise InvalidOption(f"--as {found.variable}: that cannot be a variable.")
    if found.max_tokens is not None and found.max_tokens < 1:
        raise InvalidOption(f"--max-tokens {found.max_tokens}: how many? Use 1 or more.")
    return replace(found, history=found.history or found.new)


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
