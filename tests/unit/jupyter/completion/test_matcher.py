"""The completer in an IPython that has no matchers of its kind (before 8.6; Google Colab has 7.34)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import environments
import IPython.core.completer
import pytest
from IPython.core.completer import CompletionSplitter
from packaging.requirements import Requirement

import vllm_magic
from vllm_magic.jupyter.completion import matcher, values

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


class OldCompleter:
    """What the completer of IPython 7.34 offers to the functions for the arguments of magics (`magic_arg_matchers`)."""

    def __init__(self) -> None:
        self.magic_arg_matchers: list = [lambda _line: []]
        self.splitter = CompletionSplitter()
        self.text_until_cursor = ""

    def complete(self, line: str) -> list[str]:
        """The whole lines that it would offer at the end of this line."""
        self.text_until_cursor = line
        kept = line.removesuffix(self.splitter.split_line(line))
        return [kept + text for function in self.magic_arg_matchers for text in function(line)]


@pytest.fixture
def old_completer(old_ipython) -> OldCompleter:
    completer = OldCompleter()
    old_ipython.add(SimpleNamespace(Completer=completer), SimpleNamespace(executable="/nonexistent/vllm"))
    return completer


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%vllm sto", ["%vllm stop"]),
        ("server = %vllm sta", ["server = %vllm start", "server = %vllm status"]),
        ("%vllm start tiny --no-wa", ["%vllm start tiny --no-wait"]),
        ("%%vllm --temp", ["%%vllm --temperature"]),
        (
            "%vllm start tiny --gpus=0,",
            ["%vllm start tiny --gpus=0,1"],
        ),  # IPython replaces what stands after the comma
        ("print(1)", []),
        ("%time sto", []),
    ],
)
def test_an_old_completer(old_completer, monkeypatch, line, offered):
    monkeypatch.setattr(values, "_gpu_names", lambda: {"0": "GPU", "1": "GPU"})
    assert old_completer.complete(line) == offered


def test_an_old_completer_is_left_as_it_was(old_ipython, old_completer):
    old_ipython.remove(SimpleNamespace(Completer=old_completer))
    assert len(old_completer.magic_arg_matchers) == 1
    assert old_completer.complete("%vllm sto") == []


def test_what_colab_has_is_enough():
    """pip would upgrade it otherwise, and the runtime would not start again."""
    pins = Path(environments.__file__).with_name("pins").joinpath("colab.txt").read_text()
    colab = dict(line.split("==") for line in pins.split())
    project = tomllib.loads(Path(vllm_magic.__file__).parents[1].joinpath("pyproject.toml").read_text())
    needed = map(Requirement, project["project"]["dependencies"])
    bounds = {one.name: one.specifier for one in needed}
    assert len(colab.keys() & bounds.keys()) > 8
    assert [name for name, bound in bounds.items() if name in colab and colab[name] not in bound] == []
