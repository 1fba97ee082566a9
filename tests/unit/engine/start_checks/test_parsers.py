"""A parser that vLLM does not have is told before the start."""

from __future__ import annotations

import dataclasses

import pytest

from vllm_magic.engine.flags.flag_table import FlagTable
from vllm_magic.engine.start_checks import parsers
from vllm_magic.errors import InvalidOption

AUTO = "--enable-auto-tool-choice"


@pytest.mark.parametrize(
    "args",
    [
        (),
        (AUTO, "--tool-call-parser", "hermes"),
        (AUTO, "--tool-call", "hermes"),
        ("--tool-call-parser", "nothing"),  # nobody looks for it
        (AUTO, "--no-enable-auto-tool-choice", "--tool-call-parser", "nothing"),
        (AUTO, "--tool-call-parser", "mine", "--tool-parser-plugin", "plugin.py"),
        (AUTO, "--tool-call-parser", "mine", "--tool-parser-plugin", "a.module"),
        (
            AUTO,
            "--tool-call-parser",
            "hermes",
            "--tool-parser-plugin",
            "nothing.py",
        ),  # vLLM logs it and goes on
        ("--reasoning-parser", "qwen3"),
        ("--reasoning-parser", "None"),
        ("--reasoning-parser", ""),
        ("--reasoning-parser", "nothing", "--skip-tokenizer-init"),
        ("--reasoning-parser", "nothing", "--omni"),
    ],
    ids=str,
)
def test_what_vllm_may_have_is_left_to_it(planned, tmp_path, args):
    (tmp_path / "plugin.py").write_text("")
    parsers.check(planned(*args, cwd=str(tmp_path)))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            (AUTO,),
            "--enable-auto-tool-choice needs the parser of the model's tool calls: --tool-call-parser NAME.",
        ),
        (
            (AUTO, "--tool-call-parser", "qwen3-coder"),
            "--tool-call-parser qwen3-coder: this vLLM has no parser qwen3-coder. Did you mean qwen3_coder?",
        ),
        ((AUTO, "--tool-call-parser", "zzz"), "Choose from hermes, qwen3_coder, qwen3_xml."),
        (
            (AUTO, "--tool-call-parser", "mine", "--tool-parser-plugin", "plugn.py"),
            "--tool-parser-plugin plugn.py is not there, and vLLM itself has no parser mine. Did you mean plugin.py?",
        ),
        (("--reasoning-parser", "deepseek-r1"), "Did you mean deepseek_r1?"),
        (
            ("--reasoning-parser", "x", "--reasoning-parser-plugin", "/nowhere/a.py"),
            "There is no folder /nowhere.",
        ),
    ],
    ids=str,
)
def test_what_it_does_not_have_is_refused(planned, tmp_path, args, said):
    (tmp_path / "plugin.py").write_text("")
    with pytest.raises(InvalidOption) as refused:
        parsers.check(planned(*args, cwd=str(tmp_path)))
    assert said in str(refused.value)


def test_names_are_left_to_a_vllm_whose_parsers_are_not_known(planned):
    start = planned(AUTO, "--tool-call-parser", "zzz", "--reasoning-parser", "zzz")
    start.table = FlagTable(
        start.table.version, tuple(dataclasses.replace(one, choices=()) for one in start.table.options)
    )
    parsers.check(start)
    parsers.check(planned(AUTO, "--tool-call-parser", "zzz", table=None))
