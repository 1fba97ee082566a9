"""A flag that vLLM does not have is said before the start; whatever vLLM might take is left to it."""

from __future__ import annotations

import pytest

from vllm_magic.engine import command
from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.engine.start_checks import unknown_flags

TABLE = FlagTable(
    "0.32.0",
    (
        FlagOption(("--max-model-len",), "int"),
        FlagOption(("--max-num-seqs",), "int"),
        FlagOption(("--hf-overrides",), "loads"),
        FlagOption(("--compilation-config", "-cc")),
        FlagOption(("--enforce-eager", "--no-enforce-eager"), "bool", nargs="0"),
        FlagOption(("--tensor-parallel-size", "-tp"), "int"),
        FlagOption(("--chat-template",)),
        FlagOption(("--api_key",)),
    ),
)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--max-model-len 4096",
        "--max-model-len=4096",
        "--max_model_len 4096 --max_num_seqs=1",
        "--max-model 4096",  # argparse takes a beginning
        "--max 4096",  # and says itself that this one is ambiguous
        "--api-key x",
        "--api_key x",
        "--enforce-eager --no-enforce-eager --no_enforce_eager",
        "-tp 2",
        "-tp=2 -zz -x 1 -O3 -O.level=3 -cc.mode 3 -cc.a.b+ --strange",
        "--hf-overrides.a.b 1",
        "--hf_overrides.a_b.c=--strange",
        "--hf-overrides.a --strange",
        "--hf-over.a+ --strange",
        "--max-model-len -1",
        "--max-model-len=-1 -0.5",
        "--chat-template|--- a b",
        "--chat-template|{{ --strange }}",
        "--strange things|--said to be one",
        "-- --strange",
        "--omni --strange",
        "--strange --omni",
    ],
)
def test_what_vllm_may_take_is_left_to_it(line):
    words = line.split("|") if "|" in line else line.split()
    assert unknown_flags.find(words, TABLE) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--max-modell-len 4096", "--max-modell-len"),
        ("--max-modell-len=4096", "--max-modell-len"),
        ("--max_modell_len 4096", "--max_modell_len"),
        ("--max-model-length 4096", "--max-model-length"),
        ("--enforce-eager --strange", "--strange"),
        ("-tp 2 --strange --other", "--strange"),
        ("--strange.a.b 1", "--strange"),
        ("--strange.a=1", "--strange"),
        ("--hf-overrides.a=1 --strange", "--strange"),
        ("--hf-overrides.a 1 --strange", "--strange"),
        ('--strange={"a":1.5}', "--strange"),
        ("--max-model-len 0.5 --strange", "--strange"),
        ("--no-max-model-len", "--no-max-model-len"),
        ("--Max-Model-Len 1", "--Max-Model-Len"),
    ],
)
def test_what_it_does_not_have_is_found(line, found):
    assert unknown_flags.find(line.split(), TABLE) == found


QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")


def test_no_flag_is_added_where_the_flags_are_not_known(spec):
    assert QUIET[0] not in command.build(spec()).argv
