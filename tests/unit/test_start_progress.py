"""Where `vllm_magic.start` shows its progress: in marimo as a spinner, in a terminal as lines, else nowhere."""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from shells import a_shell
from view_checks import a_server

from vllm_magic import start_progress
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.lifecycle.events import ProgressChanged


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Neither marimo nor IPython."""
    monkeypatch.setitem(sys.modules, "marimo", None)
    monkeypatch.setitem(sys.modules, "IPython", None)


@pytest.fixture
def spinner(monkeypatch):
    """Have a marimo whose spinner writes down what it shows."""
    shown = []

    @contextmanager
    def make(**texts):
        shown.append(texts)
        try:
            yield SimpleNamespace(update=lambda **texts: shown.append(texts))
        finally:
            shown.append("removed")

    marimo = SimpleNamespace(running_in_notebook=lambda: True, status=SimpleNamespace(spinner=make))
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    return shown


def test_in_marimo(spinner):
    one = a_server(name="tiny")
    with start_progress.shown() as report:
        report(one)
        one._run.handle(ProgressChanged(Progress(Stage.LOADING)))
        report(one)
    titles = [texts["title"] for texts in spinner[:2]]
    assert titles == ["tiny: waiting for the GPU", "tiny: loading weights"]
    assert spinner[0]["subtitle"] == "0 s"
    assert spinner[2] == "removed"


def test_a_server_that_is_ready_needs_no_spinner(spinner):
    with start_progress.shown():
        pass
    assert spinner == []


def test_an_error_removes_the_spinner(spinner):
    def interrupted():
        with start_progress.shown() as report:
            report(a_server())
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert spinner[-1] == "removed"


def test_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    one = a_server(name="tiny")
    with start_progress.shown() as report:
        report(one)
        report(one)
        one._run.handle(ProgressChanged(Progress(Stage.LOADING)))
        report(one)
    assert written.getvalue() == "tiny: waiting for the GPU · 0 s\ntiny: loading weights · 0 s\n"


@pytest.mark.parametrize("stderr", [io.StringIO(), None], ids=["a file", "none"])
def test_nowhere(monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    with start_progress.shown() as report:
        assert report is None


def test_ipython_has_the_magic(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", Terminal())
    with a_shell() as shell:
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)
        with start_progress.shown() as report:
            assert report is None
