"""A word that follows the model and is no flag is refused at once."""

from __future__ import annotations

import pytest

from vllm_magic.engine.start_checks import stray_words
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import InvalidOption


@pytest.mark.parametrize(
    "args", [(), ("--seed", "1"), ("-tp", "2"), ("--served-model-name", "a", "b"), ("a", "--omni")], ids=str
)
def test_what_vllm_may_accept_is_left_to_it(planned, args):
    stray_words.check(planned(*args))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("extra",), "'extra' follows the model, and is no flag. A flag begins with two dashes"),
        (("max-model-len=100",), "A flag begins with two dashes"),
        (("—max-model-len", "4096"), "Write --max-model-len, with two dashes."),
        (("#", "the", "small", "one"), "A comment cannot follow on the same line."),
        ((">", "log.txt"), "'>' follows the model"),
        (("", "--seed", "1"), "'' follows the model"),
        (("x" * 5000,), "x' follows the model"),
    ],
    ids=[*"abcdefg"],
)
def test_what_is_refused(planned, args, said):
    with pytest.raises(InvalidOption) as refused:
        stray_words.check(planned(*args))
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_command_of_ollama(spec):
    start = PlannedStart(spec("ollama", "run", "qwen3:0.6b"), {}, None)
    with pytest.raises(InvalidOption, match=r"'run' follows the model.* by its name on the Hub"):
        stray_words.check(start)
