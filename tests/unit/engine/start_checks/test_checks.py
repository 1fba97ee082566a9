"""One refusal tells all mistakes of the flags."""

from __future__ import annotations

import pytest

from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.start_checks import checks
from vllm_magic.errors import InvalidOption, StartFailed


@pytest.fixture
def planned(planned, monkeypatch):
    """Make the flags of every start known."""
    known = planned().table
    monkeypatch.setattr(flag_table, "load", lambda *_, **__: known)
    return planned


def test_all_mistakes_of_flags_are_told_at_once(planned):
    start = planned("--max-num-seqs", "many", "--max-modell-len", "4096", "-tp", "0", "--dtype", "x")
    with pytest.raises(InvalidOption) as refused:
        checks.check(start.spec, {}, start.executable)
    first, *lines = refused.value.lines
    assert first == "4 mistakes:"
    assert [line.split(".")[0] for line in lines] == [
        "vLLM 0",
        "--max-num-seqs many is not a whole number",
        "--dtype x is not among the values that vLLM accepts",
        "--tensor-parallel-size 0 is less than 1",
    ]
    assert str(refused.value) == " ".join(lines)
    assert refused.value._render_traceback_() == ["InvalidOption: 4 mistakes:", *lines]


def test_one_mistake_is_one_line(planned):
    start = planned("--dtype", "x")
    with pytest.raises(InvalidOption) as refused:
        checks.check(start.spec, {}, start.executable)
    assert refused.value.lines == [str(refused.value)]


def test_what_is_added_later_is_the_last_line():
    error = InvalidOption("This is wrong.", "That is too.").continued("one is awake again.")
    assert error.lines == ["2 mistakes:", "This is wrong.", "That is too.", "one is awake again."]


def test_an_estimate_checks_the_flags_as_a_start_does(planned):
    with pytest.raises(InvalidOption, match=r"no flag --max-modell-len.*--max-model-len"):
        checks.check_model(planned("--max-modell-len", "64").spec, {})


def test_an_estimate_needs_no_vllm(planned, tmp_path):
    spec = planned("--max-modell-len", "64", executable=str(tmp_path / "vllm")).spec
    with pytest.raises(StartFailed):
        checks.check_model(spec, {"HF_HUB_OFFLINE": "1"})
