"""The words behind the other sub-commands of ``%vllm`` as what they ask for."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.parser import Parser, Verb, name_only, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence


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


class SpareDeed(str, Enum):
    """What can be done about the spare."""

    STATUS = "status"
    ON = "on"
    OFF = "off"
    AUTO = "auto"


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


class _Lora(Parser):
    """argparse makes it for each deed, with words of its own."""

    def __init__(self, **_: object) -> None:
        super().__init__(Verb.LORA)


def attach(words: Sequence[str]) -> str | None:
    """The name behind ``attach``, or None."""
    return name_only(Verb.ATTACH, words)


def restart(words: Sequence[str]) -> str | None:
    """The name behind ``restart``, or None."""
    return name_only(Verb.RESTART, words)


def metrics(words: Sequence[str]) -> str | None:
    """The name behind ``metrics``, or None."""
    return name_only(Verb.METRICS, words)


def cluster(words: Sequence[str]) -> str:
    """The address behind ``cluster``; "auto" where there is none."""
    return name_only(Verb.CLUSTER, words) or "auto"


def plot(words: Sequence[str]) -> str | None:
    """The name behind ``plot``, or None."""
    return name_only(Verb.PLOT, words)


def wake(words: Sequence[str]) -> str | None:
    """The name behind ``wake``, or None."""
    return name_only(Verb.WAKE, words)


def sleep(words: Sequence[str]) -> SleepWords:
    """The words behind ``sleep``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(Verb.SLEEP)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--level", type=int, choices=(1, 2), default=1)
    found = parser.parse_args(list(words))
    return SleepWords(found.name, found.level)


def spare(words: Sequence[str]) -> SpareDeed:
    """The word behind ``spare``; without one it is ``status``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(Verb.SPARE)
    deeds = [deed.value for deed in SpareDeed]
    parser.add_argument("deed", nargs="?", choices=deeds, default=SpareDeed.STATUS.value)
    return SpareDeed(parser.parse_args(list(words)).deed)


def lora(words: Sequence[str]) -> LoraWords:
    """The words behind ``lora``: ``list``, ``load NAME PATH`` or ``unload NAME``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(Verb.LORA)
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
    parser = Parser(Verb.PULL)
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
    return name_only(Verb.STATUS, words)


def stop(words: Sequence[str], grace: float | None = None) -> StopWords:
    """The words behind ``stop``; ``grace`` is the configured one.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(Verb.STOP)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--grace", type=seconds, default=grace)
    parser.add_argument("--drain", type=seconds, default=0.0)
    found = parser.parse_args(list(words))
    if found.all and found.name:
        raise InvalidOption(f"Stop {found.name}, or --all? Leave one of them out.")
    return StopWords(found.name, found.all, found.grace, found.drain)


def logs(words: Sequence[str]) -> LogsWords:
    """The words behind ``logs``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(Verb.LOGS)
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
    parser = Parser(Verb.REAP)
    parser.add_argument("--pid", type=int, action="append", default=[])
    parser.add_argument("--yes", action="store_true")
    found = parser.parse_args(list(words))
    return ReapWords(tuple(dict.fromkeys(found.pid)), found.yes)


def ask(words: Sequence[str]) -> AskWords:
    """The words behind ``%%vllm``.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser()
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
