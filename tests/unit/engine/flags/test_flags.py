"""Flags of `vllm serve` in every way in which vLLM lets them be written."""

from __future__ import annotations

import pytest

from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption


@pytest.mark.parametrize(
    "args",
    [
        ("--max-model-len", "4096"),
        ("--max-model-len=4096",),
        ("--max_model_len", "4096"),
        ("--max_model_len=4096",),
        ("--enforce-eager", "--max-model-len", "4096", "--seed", "1"),
        ("--max-model-len", "1", "--max_model_len=4096"),  # the last one counts
    ],
)
def test_a_value_is_found_however_it_is_written(args):
    assert flags.value(args, "--max-model-len") == "4096"
    assert flags.has(args, "--max-model-len")
    assert flags.whole_number(args, "--max-model-len", default=1) == 4096


@pytest.mark.parametrize("args", [(), ("--max-model-len-x", "1"), ("--seed", "1"), ("-max-model-len", "1")])
def test_what_is_not_there_is_not_found(args):
    assert flags.value(args, "--max-model-len") is None
    assert not flags.has(args, "--max-model-len")
    assert flags.pop(args, "--max-model-len") == (None, args)


def test_several_names_are_one_flag():
    names = ("--tensor-parallel-size", "-tp")
    assert flags.value(("-tp", "2"), *names) == "2"
    assert flags.value(("-tp=4",), *names) == "4"
    assert flags.value(("-tp", "2", "--tensor-parallel-size", "8"), *names) == "8"


def test_underscores_of_a_value_stay():
    assert flags.value(("--served_model_name=my_model",), "--served-model-name") == "my_model"


def test_a_value_may_hold_equals_signs_and_blanks():
    assert flags.value(("--chat-template={{ a = b }}",), "--chat-template") == "{{ a = b }}"


@pytest.mark.parametrize("text", ["", "many", "1.5", "-1", "²"])
def test_what_is_no_whole_number_gives_the_default(text):
    assert flags.whole_number((f"--seed={text}",), "--seed", default=7) == 7


@pytest.mark.parametrize("text", ["", "much", "nan", "inf", "-inf"])
def test_what_is_no_number_gives_the_default(text):
    assert (
        flags.number((f"--gpu-memory-utilization={text}",), "--gpu-memory-utilization", default=0.92) == 0.92
    )


def test_a_number_is_read():
    assert flags.number(("--gpu-memory-utilization", "0.5"), "--gpu-memory-utilization", default=0.92) == 0.5
    assert flags.number(("--shutdown-timeout", "0"), "--shutdown-timeout", default=3.0) == 0.0


def test_a_flag_at_the_end_without_its_value():
    assert flags.value(("--seed",), "--seed") is None
    assert flags.number(("--seed",), "--seed", default=2.0) == 2.0


def test_take_leaves_the_rest_in_its_order():
    args = ("-O.level=3", "--port", "1", "--hf-overrides", '{"a": {"b": 1}}', "--port=2", "--enforce-eager")
    assert flags.pop(args, "--port") == (
        "2",
        ("-O.level=3", "--hf-overrides", '{"a": {"b": 1}}', "--enforce-eager"),
    )


def test_take_takes_a_value_that_begins_with_a_dash():
    assert flags.pop(("--api-key", "-secret", "--seed", "1"), "--api-key") == ("-secret", ("--seed", "1"))
    assert flags.pop(("--api-key=--secret",), "--api-key") == ("--secret", ())


@pytest.mark.parametrize("args", [("--port",), ("--port=",), ("--port", ""), ("--port", "--seed", "1")])
def test_take_refuses_a_flag_without_a_value(args):
    with pytest.raises(InvalidOption, match="--port needs a value"):
        flags.pop(args, "--port")
