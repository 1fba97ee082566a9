"""The parsers, `%vllm help`, its pages and the README's table of the magics tell of the same arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from IPython.core.error import UsageError

from vllm_magic.jupyter.commands import help_text, registry
from vllm_magic.jupyter.commands.expansion import expand, split
from vllm_magic.jupyter.commands.parser import CELL, Parser, line

README = Path(__file__).parents[4].joinpath("README.md").read_text(encoding="utf-8")
TABLE = README.partition("## The magics\n\n")[2].partition("\n\n")[0]
COMMANDS = registry.commands()
OVERVIEW = help_text.overview(COMMANDS.values())
LISTED = OVERVIEW[: OVERVIEW.index("")]
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
def test_the_list_of_all_tells_of_each(name):
    command = COMMANDS[name]
    own = [number for number, text in enumerate(LISTED) if f"{text} ".startswith(f"{line(name)} ")]
    below = own[-1] + 1
    assert len(own) == max(1, len(command.actions))
    told = [text.split()[0] for text in LISTED[below:] if text.startswith("      -")]
    options = [] if command.like else [option.flag for option in command.options]
    assert told[: len(options)] == options


def test_the_columns_of_the_list():
    for text in LISTED:
        assert text[27:29] == "  "
        assert text[29] != " "
        assert len(text) <= help_text.WIDTH


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_each(shell, name):
    command = COMMANDS[name]
    told = page(name)
    lines = told.splitlines()
    assert lines[0].startswith(line(name))
    assert told.endswith(command.examples[-1].rpartition("\n")[2])
    for argument in command.arguments:
        assert f"      {argument.metavar} " in told
    for option in command.options:
        assert f"      {option.usage} " in told
    for action in command.actions:
        assert f"      {action.name} " in told
    assert ("TIME is 90" in told) == any(option.metavar == "TIME" for option in command.options)
    assert max(map(len, lines)) <= help_text.WIDTH
    assert shell.run_line_magic("vllm", f"help {name}").lines == tuple(lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_can_be_run(name):
    assert COMMANDS[name].examples
    for example in COMMANDS[name].examples:
        magic = example.partition("\n")[0].partition("%vllm")[2]
        cell = example.startswith(CELL)
        command, rest = registry.select(expand(split(magic), {"model": "m"}), cell=cell)
        assert command.name == name
        command.parse(rest)


def test_the_readme_has_the_table_of_the_commands():
    """`.venv/bin/python tools/readme_table.py` writes it."""
    assert TABLE.splitlines() == help_text.readme_table(COMMANDS.values()).splitlines()


@pytest.mark.parametrize("words", ["help", "--help", "-h"])
def test_ways_to_ask_for_the_list(shell, words):
    assert shell.run_line_magic("vllm", words).lines == tuple(OVERVIEW)


@pytest.mark.parametrize(
    "words", ["help start", "start --help", "start -h", "start MODEL --help", "-h start"]
)
def test_ways_to_ask_for_a_page(shell, words):
    shown = shell.run_line_magic("vllm", words)
    assert "\n".join(shown.lines) == page("start")
    assert "Each other flag goes to `vllm serve` as it stands." in repr(shown)


@pytest.mark.parametrize("words", ["--help", "tiny -h"])
def test_ways_to_ask_for_the_page_of_a_cell(shell, words):
    assert "\n".join(shell.run_cell_magic("vllm", words, "Why?").lines) == page(CELL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("help nonsense", "%vllm has no 'nonsense'. See %vllm help."),
        ("help strat", "%vllm has no 'strat'. Did you mean %vllm help start? See %vllm help."),
        ("help Stop", "%vllm has no 'Stop'. Did you mean %vllm help stop? See %vllm help."),
        ("strat --help", "%vllm has no 'strat'. Did you mean %vllm help start? See %vllm help."),
        ("help ''", "%vllm has no ''. See %vllm help."),
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
