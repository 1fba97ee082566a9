"""The words of each sub-command, read from the text of ``%vllm help``: what is told there is what can be completed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vllm_magic.engine.flag_table import Option

# A line of a sub-command, a line of options below it, and one option in either.
_COMMAND = re.compile(r"%vllm (?P<verbs>[a-z]+(?:[|/][a-z]+)*)(?P<words>(?: \S+)*)(?: {2,}(?P<about>.+))?")
_OPTIONS = re.compile(r" +(?P<words>-\S+(?: \S+)*)(?: {2,}(?P<about>.+))?")
_OPTION = re.compile(r"(?P<flag>--?[a-z][a-z-]*)(?: (?P<value>[\w.]\S*))?")


@dataclass(frozen=True)
class Usage:
    """What can follow a sub-command.

    Attributes:
        about: what it does, in a line.
        named: whether the name of a server can follow.
        models: whether a model follows.
        flags: whether vLLM's own flags can follow the model.
        options: its own.
    """

    about: str = ""
    named: bool = False
    models: bool = False
    flags: bool = False
    options: tuple[Option, ...] = ()


@lru_cache(maxsize=1)
def read(text: str) -> dict[str, Usage]:
    """Each sub-command in the help text."""
    told: dict[str, list[tuple[str, str]]] = {}
    abouts: dict[str, str] = {}
    verbs: list[str] = []
    for line in text.splitlines():
        if command := _COMMAND.fullmatch(line):
            verbs = re.split(r"[|/]", command["verbs"])
            abouts |= dict.fromkeys(verbs, command["about"] or "")
        elif not line.startswith(" "):
            verbs = []
        if found := command or _OPTIONS.fullmatch(line):
            for verb in verbs:
                told.setdefault(verb, []).append((found["words"], found["about"] or ""))
    return {verb: _usage(abouts[verb], lines) for verb, lines in told.items()}


def _usage(about: str, lines: list[tuple[str, str]]) -> Usage:
    said = re.findall(r"[A-Z]+|\[flags\]", lines[0][0])
    return Usage(
        about=about,
        named="NAME" in said,
        models="MODEL" in said,
        flags="[flags]" in said,
        options=tuple(option for words, about in lines for option in _options(words, about)),
    )


def _options(words: str, about: str) -> list[Option]:
    return [
        Option(
            (one["flag"],),
            type=(one["value"] or "").rstrip("],") or "bool",
            help=about,
            takes_value=bool(one["value"]),
        )
        for one in _OPTION.finditer(words)
    ]
