"""The parsers, `%vllm help` and the README's table of the magics tell of the same words."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from IPython.core.error import UsageError

from vllm_magic.jupyter.commands import usage
from vllm_magic.jupyter.commands.help import HELP
from vllm_magic.jupyter.commands.parser import Parser, Verb

README = Path(__file__).parents[4].joinpath("README.md").read_text(encoding="utf-8")
TABLE = README.partition("## The magics")[2].partition("\n\n|")[2].partition("\n\n")[0]
OF_VLLM = {Verb.BENCH, Verb.HELP}  # their words are not parsed


class Seen(Exception):
    """A parser that was about to read some words."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@pytest.fixture
def parsed(shell, monkeypatch):
    """The options of a sub-command as it really reads its words: each with whether it takes a value."""

    def stop(self, *_, **__):
        raise Seen(self)

    def options(name: str) -> dict[str, bool]:
        magic = shell.find_cell_magic("vllm")
        words = ("", "Why?") if name == usage.CELL else (name,)
        with monkeypatch.context() as patched:
            patched.setattr(Parser, "parse_args", stop)
            with pytest.raises(Seen) as seen:
                magic(*words)
        return dict(_options(seen.value.parser))

    return options


def _options(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for deed in action.choices.values():
                yield from _options(deed)
        for string in action.option_strings:
            yield string, action.nargs != 0


@pytest.mark.parametrize("name", [*(verb.value for verb in Verb if verb not in OF_VLLM), usage.CELL])
def test_the_help_tells_of_each_option_that_is_parsed(parsed, name):
    told = {option.strings[0]: option.takes_value for option in usage.read(HELP)[name].options}
    refused = usage.LIKE_START.get(name, ())
    assert told == {string: valued for string, valued in parsed(name).items() if string not in refused}


@pytest.mark.parametrize("name", [*(verb.value for verb in Verb), usage.CELL])
def test_the_readme_tells_of_the_same(name):
    command = name if name == usage.CELL else f"%vllm {name}"
    assert re.search(rf"`{command}\b", TABLE)
    for option in usage.read(HELP)[name].options:
        assert re.search(rf"`[^`]*(?<![\w-]){option.strings[0]}\b", TABLE), option


@pytest.mark.parametrize("line", ["help", "start --help", "start -h", "start MODEL --help", "--help", "-h"])
def test_ways_to_ask_for_it(shell, line):
    assert shell.run_line_magic("vllm", line).lines == tuple(HELP.splitlines())


def test_no_other_word_is_taken_for_a_cry_for_help(shell):
    with pytest.raises(UsageError, match="See %vllm help"):
        shell.run_line_magic("vllm", "none")
