"""A model that vLLM cannot find is refused before the start; whatever may be found is left to vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import model_name
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import StartFailed

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def models(tmp_path) -> Path:
    """The working directory, with a folder of models."""
    for name in ("Qwen3-0.6B", "Llama-3.2-1B"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache with two models: one by its main revision, the other by a revision v2 and a commit without a name."""
    cache = tmp_path / "hf" / "hub"
    for name, refs, commits in (
        ("Qwen--Qwen3-0.6B", {"main": COMMIT}, [COMMIT]),
        ("Qwen--Qwen3-4B", {"v2": COMMIT, "old": "0" * 40}, [COMMIT, "f" * 40]),
    ):
        for commit in commits:
            (cache / f"models--{name}" / "snapshots" / commit).mkdir(parents=True)
        (cache / f"models--{name}" / "refs").mkdir()
        for ref, commit in refs.items():
            (cache / f"models--{name}" / "refs" / ref).write_text(commit)
    return cache


def check(tmp_path: Path, model: str, *args: str, **environ: str) -> None:
    """Check the start of a server in `tmp_path`."""
    environ = {"HF_HOME": str(tmp_path / "hf"), **environ}
    model_name.check(PlannedStart(ServerSpec(model, args, cwd=str(tmp_path)), environ, None))


def refused(tmp_path: Path, model: str, *args: str, **environ: str) -> str:
    """Return why the start is refused."""
    with pytest.raises(StartFailed) as caught:
        check(tmp_path, model, *args, **environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{0}/models/Qwen3-0.6b", "{0}/models/Qwen3-0.6b is not there. Did you mean {0}/models/Qwen3-0.6B?"),
        ("{0}/modles/qwen3-0.6", "{0}/modles/qwen3-0.6 is not there. Did you mean {0}/models/Qwen3-0.6B?"),
        (
            "{0}/models/xyz/a",
            "{0}/models/xyz/a is not there. Nothing in {0}/models is called xyz",
        ),
        (
            "models/Qwen3-0.6B/x",
            "models/Qwen3-0.6B/x is not there. Nothing in {0}/models/Qwen3-0.6B is called x",
        ),
        ("./models/../model/Qwen3-0.6B", "Did you mean "),
        ("{0}/link", "{0}/link is not there. {0}/link is a link to nothing"),
        ("{0}/q.gguf", "{0}/q.gguf is not there. "),
    ],
)
def test_a_path_that_is_not_there(tmp_path, models, monkeypatch, model, said):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    assert said.format(tmp_path) in refused(tmp_path, model.format(tmp_path))


@pytest.mark.parametrize(
    "model", ["{0}/models/Qwen3-0.6B", "models/Qwen3-0.6B", "./models/Qwen3-0.6B", "models"]
)
def test_a_path_that_is_there(tmp_path, models, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    check(tmp_path, model.format(tmp_path), HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_file_of_a_folder(tmp_path, name):
    path = tmp_path / name
    path.touch()
    said = f"{path} is a file, and vLLM takes the folder of a model. Give {tmp_path}"
    assert refused(tmp_path, str(path)) == said
    check(tmp_path, str(path), "--load-format", "of_a_plugin")


@pytest.mark.parametrize("name", ["model.gguf", "model.of-a-plugin", "model"])
def test_a_file_that_vllm_may_load(tmp_path, name):
    (tmp_path / name).touch()
    check(tmp_path, str(tmp_path / name))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Qwen/Qwen3 0.6B", "' ' is not among the letters, digits, '-', '_' and '.' that a name has"),
        ("Qwen\\Qwen3", "'\\\\' is not among the letters"),
        ("Qwen/Qwen3@main", "'@' is not among the letters"),
        (
            "Qwen/Qwen3-",
            "a name begins and ends with a letter, a digit or '_', and has 96 characters at most",
        ),
        ("Qwen/.x", "a name begins and ends with"),
        ("Qwen/", "a name begins and ends with"),
        ("Qwen/" + "x" * 97, "a name begins and ends with"),
        ("Qwen/a--b", "it contains --"),
        ("Qwen/a..b", "it contains .."),
        ("Qwen/Qwen3.git", "it ends with .git"),
    ],
)
def test_a_name_that_the_hub_cannot_have(tmp_path, model, said):
    assert f"{model} cannot be the name of a model on the Hub: {said}" in refused(tmp_path, model)


@pytest.mark.parametrize(
    "model",
    [
        "Qwen/Qwen3-0.6B",
        "gpt2",
        "_a_/_b_",
        "a/" + "x" * 96,
        "org-of-a-very-long-name" * 5 + "/x",
        "a/naïve",  # huggingface_hub before 1.0
        "Qwen/Qwen3-0.6B-GGUF:Q4_K_M",
        "Qwen/Qwen3-0.6B-GGUF/qwen3-q4.gguf",
        "https://example.org/model.gguf",
        "https://huggingface.co/Qwen/Qwen3-GGUF/resolve/main/q4.gguf",
        "s3://bucket/a/model",
        "gs://bucket/a/model",
        "az://bucket/a/model",
    ],
)
def test_a_name_that_vllm_may_find(tmp_path, model):
    check(tmp_path, model)


@pytest.mark.parametrize(
    "page",
    [
        "https://huggingface.co/{}",
        "huggingface.co/{}/",
        "https://hf.co/{}/tree/main",
        "http://www.huggingface.co/{}",
    ],
)
def test_the_page_of_a_model(tmp_path, page):
    page = page.format("Qwen/Qwen3-0.6B")
    said = f"{page} is a page of the Hub, and vLLM takes the name of a model. Give Qwen/Qwen3-0.6B"
    assert refused(tmp_path, page) == said


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_and_not_in_the_cache(tmp_path, cache, variable):
    said = f"Qwen/Qwen3-0.6 is not on this machine, and {variable} forbids asking the Hub. Did you mean Qwen/Qwen3-0.6B"
    assert refused(tmp_path, "Qwen/Qwen3-0.6", **{variable: "yes"}).startswith(said)
    said = f"Unset {variable} to download it. The cache is {cache}"
    assert refused(tmp_path, "zzz", **{variable: "1"}).endswith(said)


def test_offline_and_another_revision_is_in_the_cache(tmp_path, cache):
    said = "The revision main of Qwen/Qwen3-4B is not on this machine, and HF_HUB_OFFLINE forbids asking the Hub."
    told = refused(tmp_path, "Qwen/Qwen3-4B", HF_HUB_OFFLINE="1")
    assert told == f"{said} Use --revision v2 or {'f' * 40}, or unset HF_HUB_OFFLINE"
    assert "The revision v3 of" in refused(tmp_path, "Qwen/Qwen3-4B", "--revision", "v3", HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("Qwen/Qwen3-0.6B", ()),
        ("Qwen/Qwen3-0.6B", ("--revision", COMMIT)),
        ("Qwen/Qwen3-4B", ("--revision=v2",)),
        ("Qwen/Qwen3-4B", ("--revision", "f" * 40)),
        ("s3://bucket/model", ()),
        ("Qwen/Qwen3-GGUF:Q4_K_M", ()),
    ],
)
def test_offline_and_in_the_cache(tmp_path, cache, model, args):
    check(tmp_path, model, *args, HF_HUB_OFFLINE="1")


def test_another_cache(tmp_path, cache):
    elsewhere = str(tmp_path / "elsewhere")
    assert "not on this machine" in refused(
        tmp_path, "Qwen/Qwen3-0.6B", HF_HUB_OFFLINE="1", HF_HOME=elsewhere
    )
    check(tmp_path, "Qwen/Qwen3-0.6B", HF_HUB_OFFLINE="1", HF_HOME=elsewhere, HF_HUB_CACHE=str(cache))
    check(tmp_path, "Qwen/Qwen3-0.6B", "--download-dir", str(cache), HF_HUB_OFFLINE="1", HF_HOME=elsewhere)
    check(tmp_path, "Qwen/Qwen3-0.6B", "--download-dir", elsewhere, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    "environ", [{}, {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, {"HF_HUB_OFFLINE": ""}]
)
def test_online_every_name_may_be_there(tmp_path, environ):
    """As huggingface_hub reads these variables: one that is set to "0" hides the other."""
    check(tmp_path, "some/model", **environ)


@pytest.mark.parametrize(
    ("args", "environ"),
    [
        ((), {"VLLM_USE_MODELSCOPE": "True"}),
        ((), {"VLLM_MODEL_REDIRECT_PATH": "/redirects.json"}),
        (("--omni",), {}),
        (("--hf-config-path", "Qwen/Qwen3-0.6B"), {}),
    ],
)
def test_where_names_mean_something_else(tmp_path, args, environ):
    for model in ("/nowhere/at/all", "a/b/c", "a b", "some/model"):
        check(tmp_path, model, *args, HF_HUB_OFFLINE="1", **environ)
