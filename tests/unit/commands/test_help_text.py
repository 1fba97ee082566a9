"""The help of both front ends, and the tables in the README."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from vllm_magic import cli
from vllm_magic.commands import help_text
from vllm_magic.commands.front_end import NOTEBOOK, TERMINAL
from vllm_magic.jupyter.commands import registry

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {NOTEBOOK: registry.declarations(), TERMINAL: cli.declarations()}
BOTH = COMMANDS[NOTEBOOK].keys() & COMMANDS[TERMINAL].keys()

every_front_end = pytest.mark.parametrize("front_end", COMMANDS, ids=lambda front_end: front_end.program)
every_command = pytest.mark.parametrize(
    "command",
    [command for commands in COMMANDS.values() for command in commands.values()],
    ids=lambda command: command.line,
)


def listed(front_end) -> list[str]:
    """The lines of the list of all commands, without the notes below it."""
    lines = help_text.overview(front_end, COMMANDS[front_end].values())
    return lines[: lines.index("")]


@every_command
def test_the_list_names_each_command_with_its_options(command):
    lines = listed(command.front_end)
    own = [number for number, text in enumerate(lines) if f"{text} ".startswith(f"{command.line} ")]
    assert len(own) == max(1, len(command.actions))
    below = [text for text in lines[own[-1] + 1 :] if text.startswith("      -")]
    options = () if command.like else command.options
    assert len(below) >= len(options)
    for option, row in zip(options, below, strict=False):
        assert row.startswith(f"      {option.usage} ")


@every_front_end
def test_the_columns_of_the_list(front_end):
    for text in listed(front_end):
        assert text[28:30] == "  "
        assert text[30] != " "
    for text in help_text.overview(front_end, COMMANDS[front_end].values()):
        assert len(text) <= front_end.width


@every_command
def test_the_page_of_each(command):
    lines = help_text.page(command)
    text = "\n".join(lines)
    assert lines[0].startswith(command.line)
    assert text.endswith(command.examples[-1].rpartition("\n")[2])
    for argument in command.arguments:
        assert f"      {argument.metavar} " in text
    for option in command.options:
        assert f"      {option.usage} " in text
    for action in command.actions:
        assert f"      {action.name} " in text
    assert ("TIME is 90" in text) == any(option.metavar == "TIME" for option in command.options)
    assert max(map(len, lines)) <= command.front_end.width


@every_command
def test_a_page_names_the_program_of_its_front_end_only(command):
    text = "\n".join(help_text.page(command))
    (other,) = {NOTEBOOK, TERMINAL} - {command.front_end}
    assert f"{other.program} " not in text


@pytest.mark.parametrize("name", sorted(BOTH))
def test_what_both_front_ends_have_has_one_text(name):
    notebook, terminal = (commands[name] for commands in COMMANDS.values())
    assert terminal.about == notebook.about
    assert terminal.details == notebook.details.replace("%vllm", "vllm-magic")
    options = {option.flag: option for option in notebook.options}
    for option in terminal.options:
        assert options.get(option.flag, option) == option


@every_front_end
def test_the_readme_has_the_table_of_the_commands(front_end):
    """`.venv/bin/python tools/readme_table.py` writes it."""
    assert help_text.readme_table(front_end, COMMANDS[front_end].values()) in README


@pytest.fixture
def readme_table():
    """The script `tools/readme_table.py`."""
    return runpy.run_path(str(ROOT / "tools" / "readme_table.py"))


def test_the_script_changes_nothing_in_a_current_readme(readme_table):
    assert readme_table["with_tables"](README) == README


def test_the_script_refuses_a_readme_without_the_place_of_a_table(readme_table):
    with pytest.raises(ValueError, match="has no text '## The magics"):
        readme_table["with_tables"](README.replace("## The magics", "## Magics"))
