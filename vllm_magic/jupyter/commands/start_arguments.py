"""The words behind ``%vllm start`` and the commands that are like it.

Own options are taken out; every other word goes to vLLM as it stands. (``magic_arguments`` and argparse's
``parse_known_args`` cannot do that: the value behind an unknown flag would pass for the model.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import Argument, CommandOption, ValueKind
from vllm_magic.commands.front_end import NOTEBOOK
from vllm_magic.commands.parser import assignment, seconds
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands import settings
from vllm_magic.jupyter.commands.settings import NO_SETTINGS, Profile, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL = Argument(
    "MODEL",
    "the model: ORGANISATION/NAME of the Hugging Face Hub, or a folder",
    ValueKind.MODEL,
    required=True,
)
NO_WAIT = CommandOption("--no-wait", "return at once")
OPTIONS = (
    CommandOption("--name", "what to call it (else the last part of the model's name)", "NAME", default=""),
    CommandOption(
        "--gpus",
        "GPUs by index or UUID, or the freest that are enough (else vLLM chooses)",
        "0,1 | auto",
        kind=ValueKind.GPUS,
    ),
    CommandOption("--port", "TCP port (else a free one)", "N", type=int),
    CommandOption(
        "--env",
        "environment variable for the server; may be repeated",
        "NAME=VALUE",
        type=assignment,
        repeated=True,
    ),
    CommandOption(
        "--executable",
        "the vllm to run (else $VLLM_MAGIC_EXECUTABLE, vllm beside this Python, vllm on $PATH)",
        "PATH",
        kind=ValueKind.FILE,
    ),
    CommandOption(
        "--profile",
        "the words of this profile, before those of this line",
        "NAME",
        details="A profile is a table of `~/.config/vllm-magic/profiles.toml`.",
    ),
    CommandOption(
        "--force",
        "start it also where the GPUs have too little free memory, or vLLM has no such flag",
        details=(
            "Otherwise an error says who holds the memory and what would fit, or which flag vLLM does not have and "
            "which one was meant."
        ),
    ),
    CommandOption(
        "--cluster",
        "on a Ray cluster (http://HEAD:8265, or auto for $RAY_ADDRESS); see docs/cluster.md",
        "ADDRESS",
    ),
    CommandOption(
        "--keep",
        "outlive this kernel for so long, for another one to attach (else it ends with the kernel)",
        "10m",
        type=seconds,
        details="Another kernel takes it over with %vllm attach, or by the same start.",
    ),
    CommandOption(
        "--ttl",
        "release it when it had no request for that long",
        "30m",
        type=seconds,
        details="That is told by vLLM's own counters, and by connections that still wait for an answer.",
    ),
    NO_WAIT,
    CommandOption("--timeout", "give up, and release it, when it is not ready by then", "TIME", type=seconds),
)
_VALUED = {option.flag for option in OPTIONS if option.takes_value}
_SWITCHES = {option.flag for option in OPTIONS if not option.takes_value}


@dataclass(frozen=True)
class StartArguments:
    """The words of a line: ``own`` are our options, with "=" before each value; ``rest`` are the model and vLLM's flags."""

    own: tuple[str, ...]
    rest: tuple[str, ...]


@dataclass(frozen=True)
class StartRequest:
    """``timeout`` in seconds, None for as long as it takes."""

    spec: ServerSpec
    wait: bool
    timeout: float | None


def start(words: Sequence[str], defaults: Settings = NO_SETTINGS, *, command: str = "start") -> StartRequest:
    """What the words behind ``start`` ask for, on top of those of their profile and of the defaults.

    Args:
        words: behind the command.
        defaults: of each start.
        command: the one that the words stand behind, for errors.

    Raises:
        InvalidOption: a word does not fit.
    """
    return request(separate(words), defaults, command=command)


def request(
    arguments: StartArguments, defaults: Settings = NO_SETTINGS, *, command: str = "start"
) -> StartRequest:
    """The same for words that are separated.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = NOTEBOOK.parser(command)
    for option in OPTIONS:
        option.add_to(parser)
    own, rest = list(arguments.own), list(arguments.rest)
    name = parser.parse_args(own).profile
    profile = settings.profile(name) if name else Profile("", ())
    model = rest.pop(0) if rest and not rest[0].startswith("-") else profile.model
    if not model:
        raise InvalidOption(
            f"Which model? Write it first, then vLLM's flags: {NOTEBOOK.line(command)} MODEL [flags]."
        )
    before = separate([*defaults.words(), *profile.words])
    flags = before.rest
    if flags and not flags[0].startswith("-"):
        raise InvalidOption(f"{flags[0]!r} among the default flags, or those of the profile, is no flag.")
    found = parser.parse_args([*before.own, *own])
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
        cluster=found.cluster or None,
    )
    return StartRequest(spec, not found.no_wait, found.timeout)


def separate(words: Sequence[str]) -> StartArguments:
    """Our own options, and the rest; what stands behind ``--`` is not looked at.

    Raises:
        InvalidOption: an option has no value.
    """
    own: list[str] = []
    rest: list[str] = []
    pending = iter(words)
    for word in pending:
        flag, equals, _ = word.partition("=")
        if word == "--":
            rest.extend(pending)
        elif flag in _VALUED:
            # Joined by "=", a value that begins with a dash is still a value.
            own.append(word if equals else f"{word}={_next(pending, word)}")
        elif flag in _SWITCHES:
            own.append(word)
        else:
            rest.append(word)
    return StartArguments(tuple(own), tuple(rest))


def _next(words: Iterator[str], flag: str) -> str:
    value = next(words, None)
    if value is None:
        raise InvalidOption(f"{flag} needs a value: {flag} VALUE.")
    return value
