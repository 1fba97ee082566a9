"""`%vllm help`, and the options that the commands really parse."""

from __future__ import annotations

import argparse

import pytest
from IPython.core.error import UsageError

from vllm_magic.commands import help_text
from vllm_magic.commands.front_end import CELL, NOTEBOOK
from vllm_magic.commands.parser import Parser
from vllm_magic.jupyter.commands import registry
from vllm_magic.jupyter.commands.expansion import expand, split

COMMANDS = registry.declarations()
OVERVIEW = help_text.overview(NOTEBOOK, COMMANDS.values())
REFUSED = {"switch": {"--no-wait"}}  # options that are read to say why they cannot be


class Seen(Exception):
    """A parser that was about to read some words."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@pytest.fixture
def parsed(shell, monkeypatch):
    """The options of a command as it really reads its words: each with whether it takes a value."""

    def stop(self, *_, **__):
        raise Seen(self)

    def options(name: str) -> dict[str, bool]:
        magic = shell.find_cell_magic("vllm")
        words = ("", "Why?") if name == CELL else (name,)
        with monkeypatch.context() as patched:
            patched.setattr(Parser, "parse_args", stop)
            with pytest.raises(Seen) as seen:
                magic(*words)
        return dict(_options(seen.value.parser))

    return options


def _options(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _options(one)
        for string in action.option_strings:
            yield string, action.nargs != 0


def page(name: str) -> str:
    return "\n".join(help_text.page(COMMANDS[name]))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])  # whose words vLLM reads
def test_the_options_that_are_parsed_are_those_that_are_told_of(parsed, name):
    told = {option.flag: option.takes_value for option in COMMANDS[name].options}
    refused = REFUSED.get(name, ())
    assert told == {string: valued for string, valued in parsed(name).items() if string not in refused}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_each(shell, name):
    assert "\n".join(shell.run_line_magic("vllm", f"help {name}").lines) == page(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_can_be_run(name):
    assert COMMANDS[name].examples
    for example in COMMANDS[name].examples:
        magic = example.partition("\n")[0].partition("%vllm")[2]
        cell = example.startswith(CELL)
        command, rest = registry.select(expand(split(magic), {"model": "m"}), cell=cell)
        assert command.declaration.name == name
        command.parse(rest)


@pytest.mark.parametrize("words", ["help", "--help", "-h"])
def test_ways_to_ask_for_the_list(shell, words):
    assert shell.run_line_magic("vllm", words).lines == tuple(OVERVIEW)


@pytest.mark.parametrize(
    "words", ["help start", "start --help", "start -h", "start MODEL --help", "-h start"]
)
def test_ways_to_ask_for_a_page(shell, words):
    shown = shell.run_line_magic("vllm", words)
    assert "\n".join(shown.lines) == page("start")
    assert "Each other flag goes to `vllm serve` unchanged." in repr(shown)


@pytest.mark.parametrize("words", ["--help", "tiny -h"])
def test_ways_to_ask_for_the_page_of_a_cell(shell, words):
    assert "\n".join(shell.run_cell_magic("vllm", words, "Why?").lines) == page(CELL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("help nonsense", "There is no command 'nonsense'. See %vllm help."),
        ("help strat", "There is no command 'strat'. Did you mean %vllm help start? See %vllm help."),
        ("help Stop", "There is no command 'Stop'. Did you mean %vllm help stop? See %vllm help."),
        ("strat --help", "There is no command 'strat'. Did you mean %vllm help start? See %vllm help."),
        ("help ''", "There is no command ''. See %vllm help."),
        ("help start stop", "Unrecognized arguments: stop. See %vllm help help."),
        ("help --all", "Unrecognized arguments: --all. See %vllm help help."),
    ],
)
def test_help_for_what_is_not_there(shell, words, said):
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("vllm", words)
    assert str(caught.value) == said


def test_no_other_word_is_taken_for_help(shell):
    with pytest.raises(UsageError, match="See %vllm help"):
        shell.run_line_magic("vllm", "none")
