"""What the word at the cursor of a ``%vllm`` line can become."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine import executable
from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.engine.flags.flag_table import plain
from vllm_magic.errors import ExecutableNotFound
from vllm_magic.jupyter.commands.parser import Verb
from vllm_magic.jupyter.completion import values
from vllm_magic.jupyter.completion.values import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vllm_magic.engine.flags.flag_table import FlagTable, Option
    from vllm_magic.jupyter.commands.usage import Deed, Usage

REFUSED = ("-h", "--help", "--headless", "--uds")  # flags with which there is no server to talk to
LONGEST_ABOUT = 72  # characters; a menu has no room for more
_PLAIN_WORD = re.compile(r"""[^\s'"\\${}#]*""")  # that needs no quotes


@dataclass(frozen=True)
class TypedLine:
    """A ``%vllm`` line, or the first line of a ``%%vllm`` cell, up to the cursor.

    Attributes:
        words: those that are complete; in a cell the first one is ``%%vllm``.
        typed: the beginning of the one at the cursor, "" for a new one.
        executable: the vLLM that is configured, or None.
    """

    words: tuple[str, ...]
    typed: str
    executable: str | None = None


def find(line: TypedLine, usages: Mapping[str, Usage]) -> tuple[str, list[Candidate]]:
    """The end of what is typed that is replaced, and by what.

    Args:
        line: as far as it is written.
        usages: the words of each sub-command.
    """
    if not _PLAIN_WORD.fullmatch(line.typed):
        return line.typed, []
    part, found = _find(line, usages)
    fitting = {one.text: one for one in found if _PLAIN_WORD.fullmatch(one.text)}
    return part, [Candidate(one.text, _short(one.about)) for one in fitting.values()]


def _find(line: TypedLine, usages: Mapping[str, Usage]) -> tuple[str, Iterable[Candidate]]:
    if not line.words:
        verbs = [verb.value for verb in Verb if verb.value.startswith(line.typed)]
        return line.typed, [Candidate(verb, usages[verb].about) for verb in verbs if verb in usages]
    usage = usages.get(line.words[0])
    if usage is None:
        return line.typed, ()
    options = _Options(usage, _table(line) if usage.flags else None)
    flag, equals, value = line.typed.partition("=")
    if flag.startswith("-") and equals:
        option = options.find(flag)
        return value, values.of(option, value) if option else ()
    return line.typed, _word(line, usage, options)


def _word(line: TypedLine, usage: Usage, options: _Options) -> Iterable[Candidate]:
    behind = line.words[1:]
    positional = list(options.positionals(behind))
    if usage.deeds and not positional:
        told = usage.deeds.items()
        return [Candidate(name, deed.about) for name, deed in told if name.startswith(line.typed)]
    if line.typed.startswith("-"):
        return options.beginning(line.typed, vllm=bool(positional))
    last = options.find(behind[-1]) if behind else None
    if last and last.takes_value:
        return values.of(last, line.typed)
    found: list[Candidate] = []
    if usage.deeds:
        found += _of_deed(line, usage.deeds, positional)
    elif not positional:
        found += values.models(line.typed) if usage.models else ()
        found += values.servers(line.words[0], line.typed) if usage.named else ()
    if not line.typed:
        found += options.beginning("", vllm=bool(positional))
    return found


def _of_deed(line: TypedLine, deeds: Mapping[str, Deed], positional: list[str]) -> Iterable[Candidate]:
    """What a deed is done to."""
    name, *given = positional
    wanted = deeds[name].words[len(given) :] if name in deeds else ()
    if wanted[:1] == ("FOLDER",):
        return values.folders(line.typed)
    if wanted and name == "unload":  # of the others it is a new one
        return values.adapters(flags.value(line.words, "--server"), line.typed)
    return ()


def _table(line: TypedLine) -> FlagTable:
    """The flags of the vLLM that is meant; where they are not known, some of them, and they begin to be read."""
    with suppress(ExecutableNotFound):
        path = executable.find(flags.value(line.words, "--executable") or line.executable)
        if known := flag_table.load(path):
            return known
        from vllm_magic.children import flag_reading  # which takes its time to be imported

        flag_reading.table(path)
    from vllm_magic.engine.flags.common_flags import COMMON

    return COMMON


class _Options:
    """The options of a sub-command, and vLLM's flags where they can follow it."""

    def __init__(self, usage: Usage, table: FlagTable | None) -> None:
        self._own = {string: option for option in usage.options for string in option.strings}
        self._table = table

    def find(self, flag: str) -> Option | None:
        """The option that is written so; None where there is none, or it has its value with it."""
        return self._own.get(flag) or (self._table.find(flag) if self._table else None)

    def positionals(self, words: tuple[str, ...]) -> Iterator[str]:
        """The words that are neither an option nor the value of one."""
        rest = iter(words)
        for word in rest:
            if not word.startswith("-"):
                yield word
            elif (option := self.find(word)) and option.takes_value:
                next(rest, None)

    def beginning(self, typed: str, *, vllm: bool) -> Iterator[Candidate]:
        """The options that begin so, our own first; vLLM's in the spelling that is typed."""
        for string, option in self._own.items():
            if string.startswith(typed):
                yield Candidate(string, option.help)
        if self._table is None or not vllm:
            return
        for string, option in sorted(self._table.by_string.items(), key=_long_first):
            if string.startswith(plain(typed)) and string not in (*self._own, *REFUSED):
                rest = string[len(typed) :]
                yield Candidate(typed + (rest.replace("-", "_") if "_" in typed else rest), _about(option))


def _long_first(entry: tuple[str, Option]) -> tuple[bool, str]:
    return not entry[0].startswith("--"), entry[0]


def _about(option: Option) -> str:
    return " · ".join(filter(None, (option.kind, option.help)))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ABOUT else f"{text[: LONGEST_ABOUT - 1].rstrip()}…"
