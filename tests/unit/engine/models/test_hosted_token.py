"""The token for Hugging Face from the secrets of Google Colab and Kaggle."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from vllm_magic import masking
from vllm_magic.engine.models import hosted_token

STAND_INS = Path(__file__).parents[3] / "environments" / "stand_ins"
MODEL = "meta-llama/Llama-3.2-1B"
SECRET = "a-secret-of-the-user"
ON_KAGGLE = {"KAGGLE_USER_SECRETS_TOKEN": "theirs"}


@pytest.fixture
def colab(monkeypatch):
    """The kernel of a Colab runtime, as far as secrets go."""
    monkeypatch.syspath_prepend(str(STAND_INS / "colab"))
    import google.colab.userdata

    yield google.colab.userdata
    for name in [one for one in sys.modules if one.startswith("google.colab")]:
        del sys.modules[name]


@pytest.fixture
def kaggle(monkeypatch):
    """A kernel of Kaggle, as far as secrets go."""
    monkeypatch.syspath_prepend(str(STAND_INS / "kaggle"))
    monkeypatch.setenv("KAGGLE_USER_SECRETS_TOKEN", "theirs")
    yield
    sys.modules.pop("kaggle_secrets", None)


def loaded(environ: dict[str, str], model: str = MODEL) -> str | None:
    hosted_token.load(model, environ)
    return environ.get("HF_TOKEN")


def test_elsewhere_nothing_is_asked():
    environ: dict[str, str] = {}
    hosted_token.load(MODEL, environ)
    assert environ == {}


def test_from_colab(colab, monkeypatch):
    monkeypatch.setenv("COLAB_SECRET", SECRET)
    environ: dict[str, str] = {}
    assert loaded(environ) == SECRET
    assert SECRET not in masking.mask(f"token {SECRET}", masking.secret_values(environ))


def test_a_panel_asks_when_it_opens(colab, monkeypatch):
    """A start from it runs in another thread, and its model is not known before."""
    monkeypatch.setenv("COLAB_SECRET", SECRET)
    environ: dict[str, str] = {}
    hosted_token.load(None, environ)
    assert environ == {"HF_TOKEN": SECRET}


def test_from_kaggle(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_SECRET", SECRET)
    assert loaded({**ON_KAGGLE}) == SECRET


@pytest.mark.parametrize("refused", [True, False])
def test_without_a_secret(colab, monkeypatch, refused):
    if refused:
        monkeypatch.setenv("COLAB_REFUSES", "1")
    assert loaded({}) is None


def test_kaggle_without_a_secret_or_without_its_module(kaggle, monkeypatch):
    assert loaded({**ON_KAGGLE}) is None
    monkeypatch.setitem(sys.modules, "kaggle_secrets", None)
    assert loaded({**ON_KAGGLE}) is None


def test_a_page_that_does_not_answer_is_asked_once(colab, monkeypatch):
    """A notebook that runs without a page, such as by papermill, waits 10 s once."""
    asked = []

    def wait_in_vain(name: str) -> str:
        asked.append(name)
        raise colab.TimeoutException(name)

    monkeypatch.setattr(colab, "get", wait_in_vain)
    monkeypatch.setattr(hosted_token, "_is_page_silent", False)
    assert [loaded({}), loaded({})] == [None, None]
    assert asked == ["HF_TOKEN"]


def test_what_the_user_set_stays(colab, monkeypatch, tmp_path):
    monkeypatch.setattr(colab, "get", lambda _name: pytest.fail("asked"))
    assert loaded({"HF_TOKEN": "mine"}) == "mine"
    assert loaded({"HUGGING_FACE_HUB_TOKEN": "mine"}) is None
    assert loaded({}, str(tmp_path)) is None  # a model in a folder


def test_no_other_thread_asks(colab, monkeypatch):
    """Colab answers a cell alone: a thread of the panel would wait, and take the answers to others."""
    monkeypatch.setattr(colab, "get", lambda _name: pytest.fail("asked"))
    environ: dict[str, str] = {}
    thread = threading.Thread(target=hosted_token.load, args=(MODEL, environ))
    thread.start()
    thread.join()
    assert environ == {}
