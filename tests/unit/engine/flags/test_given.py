"""The flags of a command line with their values, as argparse reads them."""

from __future__ import annotations

import argparse

import pytest

from vllm_magic.engine.flags import given
from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable

TABLE = FlagTable(
    "0.32.0",
    (
        FlagOption(("--seed",), "int"),
        FlagOption(("--max-model-len",), "int"),
        FlagOption(("--max-num-seqs",), "int"),
        FlagOption(("--hf-token",), nargs="?"),
        FlagOption(("--served-model-name",), nargs="+"),
        FlagOption(("--pair",), nargs="2"),
        FlagOption(("--enforce-eager", "--no-enforce-eager"), "bool", nargs="0"),
        FlagOption(("--tensor-parallel-size", "-tp"), "int"),
        FlagOption(("--hf-overrides",), "loads"),
    ),
)


def read(line: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    words = line.split("|") if "|" in line else line.split()
    return [(one.option.strings[0], one.values, one.left_over) for one in given.read(words, TABLE)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("--seed 1", [("--seed", ("1",), ())]),
        ("--seed=1", [("--seed", ("1",), ())]),
        ("--seed=", [("--seed", ("",), ())]),
        ("--seed -1", [("--seed", ("-1",), ())]),
        ("--seed -.5", [("--seed", ("-.5",), ())]),
        ("--seed -", [("--seed", ("-",), ())]),
        ("--seed|--- a b", [("--seed", ("--- a b",), ())]),
        ("--seed", [("--seed", (), ())]),
        ("--seed --enforce-eager", [("--seed", (), ()), ("--enforce-eager", (), ())]),
        ("--seed --strange 1", [("--seed", (), ())]),
        ("--seed 1 2 3", [("--seed", ("1",), ("2", "3"))]),
        ("--seed=1 2", [("--seed", ("1",), ("2",))]),
        ("--max_model_len 4", [("--max-model-len", ("4",), ())]),
        ("--max-mod 4", [("--max-model-len", ("4",), ())]),
        ("--max 4", []),  # two flags begin so
        ("-tp 2", [("--tensor-parallel-size", ("2",), ())]),
        ("-tp=2", [("--tensor-parallel-size", ("2",), ())]),
        ("-O3 -x y", []),
        ("--enforce-eager true", [("--enforce-eager", (), ("true",))]),
        ("--no_enforce_eager", [("--enforce-eager", (), ())]),
        ("--served-model-name a b --seed 1", [("--served-model-name", ("a", "b"), ()), ("--seed", ("1",), ())]),
        ("--served-model-name=a b", [("--served-model-name", ("a",), ("b",))]),
        ("--hf-token --seed 1", [("--hf-token", (), ()), ("--seed", ("1",), ())]),
        ("--hf-token a b", [("--hf-token", ("a",), ("b",))]),
        ("--pair a b c", [("--pair", ("a", "b"), ("c",))]),
        ("--hf-overrides.a --seed --seed 1", [("--seed", ("1",), ())]),
        ("--hf-overrides.a=1 --seed 1", [("--seed", ("1",), ())]),
        ("--seed 1 -- --seed 2", [("--seed", ("1",), ())]),
        ("a --seed 1", [("--seed", ("1",), ())]),
    ],
)  # fmt: skip
def test_what_is_read(line, found):
    assert read(line) == found


@pytest.mark.parametrize(
    "line",
    ["--seed 1", "--seed=1 --no-enforce-eager", "--served-model-name a b -tp 2", "--hf-token --seed -1",
     "--hf-token=a --pair a b", "--max-mod 4 --served-model-name=x"],
)  # fmt: skip
def test_argparse_reads_the_same(line):
    parser = argparse.ArgumentParser()
    kinds = {"1": None, "2": 2}
    for option in TABLE.options:
        if option.nargs == "0":
            parser.add_argument(option.strings[0], action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(*option.strings, nargs=kinds.get(option.nargs, option.nargs))
    read_by_argparse = vars(parser.parse_args(line.split()))
    for name, values, left_over in read(line):
        value = read_by_argparse[name[2:].replace("-", "_")]
        assert left_over == ()
        assert values == () if isinstance(value, (bool, type(None))) else [*values] in (value, [value])
