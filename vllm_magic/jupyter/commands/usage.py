"""The words of each sub-command, read from the text of ``%vllm help``: what is told there is what can be completed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from vllm_magic.engine.flags.flag_table import Option

if TYPE_CHECKING:
    from collections.abc import Mapping

START = "start"
LIKE_START = {"switch": ("--no-wait",), "fit": ()}  # take its options as well, but for these
CELL = "%%vllm"  # stands among the sub-commands for what is in the first line of a cell

# A line of a sub-command, a line of options below it, and one option in either.
_COMMAND = re.compile(
    r"(?:%vllm (?P<verbs>[a-z]+(?:[|/][a-z]+)*)|%%vllm)(?P<words>(?: \S+)*)(?: {2,}(?P<about>.+))?"
)
_OPTIONS = re.compile(r" +(?P<words>-\S+(?: \S+)*)(?: {2,}(?P<about>.+))?")
_OPTION = re.compile(r"(?P<flag>--?[a-z][a-z-]*)(?: (?P<value>[\w.]\S*))?")
_DEED = re.compile(r" (?P<deed>[a-z]+)(?P<words>(?: [A-Z]+)*)")


@dataclass(frozen=True)
class Deed:
    """A word that has to follow a sub-command, as ``load`` in ``%vllm lora load NAME FOLDER``, and what follows it."""

    about: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """What can follow a sub-command.

    Attributes:
        about: what it does, in a line.
        named: whether the name of a server can follow.
        models: whether a model follows.
        flags: whether vLLM's own flags can follow the model.
        deeds: of which one has to follow, by their words.
        options: its own.
    """

    about: str = ""
    named: bool = False
    models: bool = False
    flags: bool = False
    deeds: Mapping[str, Deed] = field(default_factory=dict)
    options: tuple[Option, ...] = ()


@lru_cache(maxsize=1)
def read(text: str) -> dict[str, Usage]:
    """Each sub-command in the help text."""
    told: dict[str, list[tuple[str, str]]] = {}
    abouts: dict[str, str] = {}
    verbs: list[str] = []
    for line in text.splitlines():
        if command := _COMMAND.fullmatch(line):
            verbs = re.split(r"[|/]", command["verbs"] or CELL)
            abouts = dict.fromkeys(verbs, command["about"] or "") | abouts  # the first line of each
        elif not line.startswith(" "):
            verbs = []
        if found := command or _OPTIONS.fullmatch(line):
            for verb in verbs:
                told.setdefault(verb, []).append((found["words"], found["about"] or ""))
    usages = {verb: _usage(abouts[verb], lines) for verb, lines in told.items()}
    own = usages[START].options if START in usages else ()
    for verb in LIKE_START.keys() & usages.keys():
        taken = tuple(option for option in own if option.strings[0] not in LIKE_START[verb])
        usages[verb] = replace(usages[verb], options=taken)
    return usages


def _usage(about: str, lines: list[tuple[str, str]]) -> Usage:
    said = re.findall(r"[A-Z]+|\[flags\]", lines[0][0])
    return Usage(
        about=about,
        named="NAME" in said,
        models="MODEL" in said,
        flags="[flags]" in said,
        deeds={
            one["deed"]: Deed(about, tuple(one["words"].split()))
            for words, about in lines
            if (one := _DEED.fullmatch(words))
        },
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
