"""From a line to words, with the notebook's variables put in word by word."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.expansion import expand, split

NAMESPACE = {
    "x": 3,
    "model": "Qwen/Qwen3-0.6B",
    "path": Path("/models/a b"),
    "overrides": {"rope": {"factor": 2.0}},
    "layers": [1, 2],
    "settings": SimpleNamespace(length=4096, nested=SimpleNamespace(deep="down")),
    "table": {"k": "v"},
    "empty": "",
    "_private": "p",
    "quoted": 'it\'s "so"',
}


def words(line: str) -> list[str]:
    return expand(split(line), NAMESPACE)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("start m -O.level=3", ["start", "m", "-O.level=3"]),
        ('start m --hf-overrides \'{"a": {"b": 1}}\'', ["start", "m", "--hf-overrides", '{"a": {"b": 1}}']),
        ("start m --flag=value -tp 2", ["start", "m", "--flag=value", "-tp", "2"]),
        ("start 'my model' \"a b\" a\\ b", ["start", "my model", "a b", "a b"]),
        ("start m # not a comment", ["start", "m", "#", "not", "a", "comment"]),
        ("  start\t m  ", ["start", "m"]),
        ("start ''", ["start", ""]),
        ("", []),
    ],
)
def test_words_are_those_of_a_shell(line, expected):
    assert words(line) == expected


@pytest.mark.parametrize("line", ["start 'm", 'start "m', 'start m --hf-overrides \'{"a": 1}', "start it's"])
def test_broken_quotes(line):
    with pytest.raises(InvalidOption, match="a closing one"):
        split(line)


def test_a_backslash_at_the_end():
    with pytest.raises(InvalidOption):
        split("start m \\")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{x}", "3"),
        ("$x", "3"),
        ("$model", "Qwen/Qwen3-0.6B"),
        ("--max-model-len={x}", "--max-model-len=3"),
        ("--max-model-len=$x", "--max-model-len=3"),
        ("{x}{x}-$x.$x", "33-3.3"),
        ("/models/$model/v$x", "/models/Qwen/Qwen3-0.6B/v3"),
        ("{settings.length}", "4096"),
        ("{settings.nested.deep}", "down"),
        ("$settings.length", f"{NAMESPACE['settings']}.length"),  # as IPython has it: a name, then text
        ("{layers[0]}", "1"),
        ("{x*2+1}", "7"),
        ("'{x * 2}'", "6"),
        ("{len(model)}", "15"),
        ("{2*1024}", "2048"),
        ("{path}", "/models/a b"),
        ("{_private}", "p"),
        ("{overrides}", '{"rope": {"factor": 2.0}}'),
        ("$overrides", '{"rope": {"factor": 2.0}}'),
        ("--hf-overrides={overrides}", '--hf-overrides={"rope": {"factor": 2.0}}'),
        ("{layers}", "[1, 2]"),
        ("{empty}", ""),
        ("{quoted}", 'it\'s "so"'),
        ("'{\"a\": {x}}'", '{"a": 3}'),
        ('\'{"a": "$x"}\'', '{"a": "3"}'),
        ("'$x'", "3"),
        ("'{table[\"k\"]}'", "v"),
    ],
)
def test_variables_are_put_in(line, expected):
    assert words(line) == [expected]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("$$", "$"),
        ("$$x", "$x"),
        ("$$$x", "$3"),
        ("a$", "a$"),
        ("$1", "$1"),
        ("'$ x'", "$ x"),
        ("{}", "{}"),
        ("{1}", "{1}"),
        ("{1,2}", "{1,2}"),
        ("{-x}", "{-x}"),
        ("{", "{"),
        ("}", "}"),
        ("'{\"a\": {}}'", '{"a": {}}'),
        ('\'{"a": {"b": 1}}\'', '{"a": {"b": 1}}'),
        ("'{\"$$schema\": 1}'", '{"$schema": 1}'),
    ],
)
def test_what_is_no_variable_stays(line, expected):
    assert words(line) == [expected]


def test_json_beside_a_variable_on_one_line():
    line = 'start {model} --hf-overrides \'{"a": {"b": 1}}\' --max-model-len {x} -tp $x'
    assert words(line) == [
        *(
            "start",
            "Qwen/Qwen3-0.6B",
            "--hf-overrides",
            '{"a": {"b": 1}}',
            "--max-model-len",
            "3",
            "-tp",
            "3",
        ),
    ]


def test_a_value_is_one_word_and_is_not_expanded_again():
    namespace = {"a": "two words $b {b}", "b": "no"}
    assert expand(["{a}", "$a"], namespace) == ["two words $b {b}"] * 2


def test_json_of_a_dict_comes_back_as_it_was():
    value = {"text": 'it\'s "so" {x} $x', "deep": [None, True, {"模": 1.5}]}
    assert json.loads(expand(["{value}"], {"value": value})[0]) == value


@pytest.mark.parametrize(
    "line", ["{missing}", "$missing", "a{missing.attr}b", "{missing[0]}", "--flag=$missing"]
)
def test_an_unknown_name_is_an_error(line):
    with pytest.raises(InvalidOption, match=r"missing.*\$\$"):
        words(line)


@pytest.mark.parametrize("line", ["$max", "{max}", "$id", "{list}"])
def test_a_name_that_only_python_knows_is_unknown(line):
    with pytest.raises(InvalidOption, match="not defined"):
        words(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{settings.nothing}", "AttributeError"),
        ("{layers[9]}", "IndexError"),
        ("{x/0}", "ZeroDivisionError"),
        ("{1/0}", "ZeroDivisionError: division by zero"),
        ("{x:1}", "single quotes"),  # JSON without its quotes: {"x":1} after the shell's rules
        ("{x y}", "single quotes"),
    ],
)
def test_an_expression_that_fails_is_an_error(line, says):
    with pytest.raises(InvalidOption, match=says):
        expand([line], NAMESPACE)


def test_a_value_that_cannot_be_json_is_an_error():
    with pytest.raises(InvalidOption, match=r"\{value\}: TypeError"):
        expand(["{value}"], {"value": {"path": object()}})


def test_a_value_that_cannot_be_text_is_an_error():
    class Mute:
        def __str__(self):
            raise RuntimeError("not a word")

    with pytest.raises(InvalidOption, match="not a word"):
        expand(["$value"], {"value": Mute()})


def test_the_notebook_is_left_as_it_was():
    namespace = {"x": 1}
    assert expand(["{x}"], namespace) == ["1"]
    assert namespace == {"x": 1}
