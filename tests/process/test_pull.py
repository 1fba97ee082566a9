"""Downloading a model ahead of its start, from a hub on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_on_loopback import Hub

from vllm_magic.children import pull as pulling
from vllm_magic.children.pull import pull
from vllm_magic.engine.models import hf_cache
from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.jupyter.commands.models import PullArguments, PullCommand

MODEL = "org/small"
WEIGHTS = bytes(range(256)) * 8192
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same again",
    "original/consolidated.00.pth": b"and again",
}
WANTED = len(WEIGHTS) + 2


@pytest.fixture(autouse=True)
def hugging_face(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return tmp_path / "hf" / "hub"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub(tmp_path / "served") as hub:
        for name, content in FILES.items():
            path = hub.folder / MODEL / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_what_vllm_needs_of_it(hub, hugging_face):
    done = pull(MODEL)
    folder = Path(done.folder)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert done.size == WANTED
    (model,) = hf_cache.models(hugging_face)
    assert (model.name, model.size, model.complete) == (MODEL, WANTED, True)


def test_weights_in_another_form_are_taken_where_there_are_no_others(hub):
    (hub.folder / MODEL / "model.safetensors").unlink()
    assert (Path(pull(MODEL).folder) / "pytorch_model.bin").exists()


def test_how_far_it_is(hub):
    hub.gate.clear()
    seen, totals = [], set()

    def report(download):
        seen.append(download.done)
        totals.add(download.total)
        if download.done:
            hub.gate.set()

    pull(MODEL, report=report)
    assert totals == {WANTED}
    assert any(0 < done < WANTED for done in seen)


def test_an_interrupted_one_is_ended_and_goes_on(hub, hugging_face):
    hub.gate.clear()

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(MODEL, report=interrupt)
    (model,) = hf_cache.models(hugging_face)
    assert not model.complete
    hub.gate.set()
    pull(MODEL)
    (model,) = hf_cache.models(hugging_face)
    assert model.complete


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (
            403,
            "GatedRepo",
            "org/small is gated. Accept its terms on https://huggingface.co/org/small, and set HF_TOKEN.",
        ),
        (404, "RepoNotFound", "org/small does not exist, or is private. Check the name;"),
        (404, "RevisionNotFound", "org/small has no such revision. Check --revision."),
        (400, "", "org/small was not downloaded: "),
    ],
)
def test_what_the_hub_refuses(hub, status, error, said):
    hub.refusal = (status, error)
    with pytest.raises(VllmMagicError) as caught:
        pull(MODEL)
    assert str(caught.value).startswith(said)


def test_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        VllmMagicError, match=r"cannot be downloaded while going online is disabled\. Unset HF_HUB_OFFLINE"
    ):
        pull(MODEL)


def test_no_name(hub):
    with pytest.raises(VllmMagicError, match="Write ORGANISATION/NAME"):
        pull("a/b/c")


def test_without_huggingface_hub(monkeypatch, executable):
    monkeypatch.setattr(pulling, "find_spec", lambda _: None)
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/bin/true")
    with pytest.raises(VllmMagicError, match="%pip install huggingface_hub"):
        pull(MODEL)


def test_the_words():
    assert PullCommand().parse(["m", "--revision", "v1"]) == PullArguments("m", "v1")
    with pytest.raises(InvalidOption):
        PullCommand().parse([])
