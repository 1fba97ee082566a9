"""A model that cannot be served is refused by `%vllm start`: nothing is launched, and no server is registered."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
from IPython.utils.capture import capture_output

from vllm_magic.errors import StartFailed
from vllm_magic.manager import switching

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 975635\n"


@pytest.fixture
def model(tmp_path) -> Path:
    """A model that is whole."""
    return checkpoints.model(tmp_path / "models" / "llama", checkpoints.LLAMA_3_8B)


def cut_short(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(10**6)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("{models}/lama", None, "/lama is not there. Did you mean {models}/llama?"),
        (
            "some/llama@main",
            None,
            "some/llama@main cannot be the name of a model on the Hub: '@' is not among",
        ),
        ("https://huggingface.co/some/llama", None, "and vLLM takes the name of a model. Give some/llama"),
        ("some/llama", None, "some/llama is not on this machine, and HF_HUB_OFFLINE forbids asking the Hub."),
        ("{models}/llama", lambda model: (model / "config.json").unlink(), "/llama has no config.json."),
        ("{models}/llama", lambda model: (model / "config.json").write_text("{"), "cannot be read as JSON"),
        ("{models}/llama", lambda model: (model / "tokenizer.json").unlink(), "/llama has no tokenizer."),
        ("{models}/llama", lambda model: (model / "model.safetensors").unlink(), "/llama has no weights"),
        (
            "{models}/llama",
            lambda model: (model / "model.safetensors").write_text(POINTER),
            "/llama/model.safetensors is a pointer of Git LFS, not the file itself. Fetch it: git -C {models}/llama lfs pull",
        ),
        ("{models}/llama", cut_short, "/llama/model.safetensors is cut short: its last "),
    ],
)
def test_what_is_refused(shell, model, traces, tmp_path, monkeypatch, name, damage, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    models = str(model.parent)
    if damage:
        damage(model)
    with capture_output() as seen:
        shell.run_cell(f"%vllm start {name.format(models=models)}")
        shell.run_cell("import vllm_magic; print(vllm_magic.servers())")
    lines = seen.stdout.strip().split("\n")
    assert len(lines) == 2, lines
    refusal, servers = lines
    assert refusal.startswith("StartFailed: ")
    assert said.format(models=models) in refusal
    assert servers == "{}"
    traces.check()


def test_what_is_whole_is_served(manager, spec, model, traces):
    server = manager.start(spec(str(model))).server
    assert server.state == "ready"
    assert server.stop().verified
    traces.check()


def test_who_insists_is_served(manager, spec, model, traces):
    """The stand-in loads no weights."""
    (model / "model.safetensors").unlink()
    assert manager.start(spec(str(model), force=True)).server.stop().verified
    traces.check()


def test_a_switch_ends_nothing_for_it(manager, spec, model, traces):
    (model / "config.json").unlink()
    works = manager.start(spec("tiny", name="works")).server
    with pytest.raises(StartFailed, match=r"has no config\.json"):
        switching.switch(manager, spec(str(model), name="other"))
    assert works.state == "ready"
    assert list(manager.servers()) == ["works"]
    assert works.stop().verified
    traces.check()
