"""One refusal tells all problems, and none that only follows from another."""

from __future__ import annotations

import checkpoints
import pytest

from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.start_checks import checks, silent_disk
from vllm_magic.errors import InvalidOption, StartFailed, VllmMagicError


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
    lines = refused.value.lines
    assert [line.split(".")[0] for line in lines] == [
        "vLLM 0",
        "--max-num-seqs many is not a whole number",
        "--dtype x is not among the values that vLLM accepts",
        "--tensor-parallel-size 0 is less than 1",
    ]
    assert str(refused.value) == " ".join(lines)
    assert refused.value._render_traceback_() == [f"InvalidOption: {lines[0]}", *lines[1:]]


def test_one_mistake_is_one_line(planned):
    start = planned("--dtype", "x")
    with pytest.raises(InvalidOption) as refused:
        checks.check(start.spec, {}, start.executable)
    assert refused.value.lines == [str(refused.value)]


def test_what_is_added_later_is_the_last_line():
    error = InvalidOption("This is wrong.", "That is too.").continued("one is awake again.")
    assert error.lines == ["This is wrong.", "That is too.", "one is awake again."]


def test_an_estimate_checks_the_flags_as_a_start_does(planned):
    with pytest.raises(InvalidOption, match=r"no flag --max-modell-len.*--max-model-len"):
        checks.check_model(planned("--max-modell-len", "64").spec, {})


def test_an_estimate_needs_no_vllm(planned, tmp_path):
    spec = planned("--max-modell-len", "64", executable=str(tmp_path / "vllm")).spec
    with pytest.raises(StartFailed):
        checks.check_model(spec, {"HF_HUB_OFFLINE": "1"})


def told(start, environ=None, now=None) -> tuple[type, list[str]]:
    """Return the type and the lines of the error for a start."""
    with pytest.raises(VllmMagicError) as refused:
        checks.check(start.spec, environ or {}, start.executable, now)
    return type(refused.value), refused.value.lines


def test_flags_model_and_machine_are_told_at_once(planned, tmp_path):
    environ = {"VLLM_PORT": "http"}
    start = planned("--seed", "x", "--port", "0", model=str(tmp_path / "models/tiny"))
    assert told(start, environ) == (
        InvalidOption,
        [
            "--seed x is not a whole number. Give a whole number.",
            f"{tmp_path}/models/tiny is not there. Nothing in {tmp_path} is called models",
            "0 is not a port. Use 1 to 65535, or leave --port out for a free one.",
            "The environment variable VLLM_PORT is 'http', and vLLM needs a number there. Remove it: del os.environ['VLLM_PORT'].",
        ],
    )


def test_the_first_problem_gives_the_type(planned, tmp_path):
    kind, lines = told(planned("--port", "0", model=str(tmp_path / "no")))
    assert (kind, len(lines)) == (StartFailed, 2)


def test_problems_of_one_model_are_told_at_once(planned, tmp_path):
    model = checkpoints.model(tmp_path / "model", checkpoints.LLAMA_3_8B)
    next(model.glob("*.safetensors")).write_text("version https://git-lfs.github.com/spec/v1")
    (model / "tokenizer.json").write_text("")
    start = planned("--max-model-len", "1000000", "-tp", "3", model=str(model))
    kind, lines = told(start)
    assert kind is StartFailed
    assert [line.replace(f"{model}/", "").split(" ")[0] for line in lines] == [
        "model.safetensors",
        "tokenizer.json",
        "--max-model-len",
        "--tensor-parallel-size",
    ]


def test_nothing_is_told_of_a_folder_that_holds_no_model(planned, tmp_path):
    """The user probably means another folder, so its weights and tokenizer are no matter."""
    kind, lines = told(planned(model=str(tmp_path)))
    assert (kind, len(lines)) == (StartFailed, 1)


def test_a_model_is_not_looked_for_if_its_name_is_not_certain(planned):
    """A path with blanks stands in quotes."""
    kind, lines = told(planned("model", model="/data/my"))
    assert (kind, len(lines)) == (InvalidOption, 1)


def test_a_silent_disk_does_not_delay_other_problems(planned, monkeypatch):
    limits = []

    def call(path, *_, limit):
        limits.append(limit)
        raise TimeoutError(f"the disk of {path} does not answer")

    monkeypatch.setattr(silent_disk.disk, "call", call)
    _, lines = told(planned(model="/net/model"))
    assert lines[0].startswith("the disk of /net/model does not answer")
    kind, lines = told(planned("--seed", "x", "--port", "0", model="/net/model"))
    assert kind is InvalidOption
    assert [line.partition(" ")[0] for line in lines] == ["--seed", "the", "0"]
    assert limits[0] == silent_disk.disk.LIMIT
    assert limits[-1] <= checks.PROMISE
