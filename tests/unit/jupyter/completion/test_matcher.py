"""The completer in an IPython that has no matchers of its kind (before 8.6; Google Colab has 7.34)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import IPython.core.completer
import pytest
from packaging.requirements import Requirement

import vllm_magic
from vllm_magic.jupyter.completion import matcher

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NEWER = ("CompletionContext", "SimpleCompletion", "context_matcher")


@pytest.fixture
def old_ipython(monkeypatch):
    """An IPython without these names; the module is imported anew in it."""
    for name in NEWER:
        monkeypatch.delattr(IPython.core.completer, name)
    monkeypatch.delitem(sys.modules, matcher.__name__)
    return importlib.import_module(matcher.__name__)


def test_nothing_is_completed_and_nothing_fails(old_ipython):
    shell = SimpleNamespace(Completer=SimpleNamespace())  # which has no custom_matchers then
    old_ipython.add(shell, SimpleNamespace(executable=""))
    old_ipython.remove(shell)
    assert vars(shell.Completer) == {}


def test_what_colab_has_is_enough():
    """pip would upgrade it otherwise, and the runtime would not start again."""
    colab = {"ipython": "7.34.0", "ipywidgets": "7.7.1", "traitlets": "5.7.1", "psutil": "5.9.5"}
    project = tomllib.loads(Path(vllm_magic.__file__).parents[1].joinpath("pyproject.toml").read_text())
    needed = map(Requirement, project["project"]["dependencies"])
    bounds = {one.name: one.specifier for one in needed}
    assert {name: version in bounds[name] for name, version in colab.items()} == dict.fromkeys(colab, True)
