"""The words behind ``%vllm start`` and those that are like it.

Own options are taken out; every other word goes to vLLM as it stands. (``magic_arguments`` and argparse's
``parse_known_args`` cannot do that: the value behind an unknown flag would pass for the model.)
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands import settings
from vllm_magic.jupyter.commands.parser import Parser, Verb, seconds
from vllm_magic.jupyter.commands.settings import NO_SETTINGS, Profile, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


VALUED = (  # of `start`
    "--name",
    "--port",
    "--gpus",
    "--executable",
    "--env",
    "--keep",
    "--cluster",
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


def start(words: Sequence[str], defaults: Settings = NO_SETTINGS, verb: Verb = Verb.START) -> StartWords:
    """The words behind ``start`` or ``switch``, on top of those of its profile and of the defaults.

    Raises:
        InvalidOption: a word does not fit.
    """
    parser = Parser(verb)
    parser.add_argument("--name", default="")
    parser.add_argument("--port", type=int)
    parser.add_argument("--gpus")
    parser.add_argument("--executable")
    parser.add_argument("--env", action="append", default=[], type=_assignment)
    parser.add_argument("--keep", type=seconds)
    parser.add_argument("--cluster")
    parser.add_argument("--ttl", type=seconds)
    parser.add_argument("--timeout", type=seconds)
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
        cluster=found.cluster or None,
    )
    if verb is Verb.SWITCH and found.no_wait:
        raise InvalidOption("--no-wait: %vllm switch returns when the server is ready. Leave it out.")
    return StartWords(spec, not found.no_wait, found.timeout)


def fit(words: Sequence[str], defaults: Settings = NO_SETTINGS) -> ServerSpec:
    """What would be started with the words behind ``fit``, which are those of ``start``.

    Raises:
        InvalidOption: a word does not fit.
    """
    return start(words, defaults, Verb.FIT).spec


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
