"""How outputs that change are shown, by what the front end wrote into its request."""

from __future__ import annotations

import io
import sys
import uuid

import pytest
from jupyter_client.session import Session

from vllm_magic.jupyter.display import mode
from vllm_magic.jupyter.display.mode import DisplayMode


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def from_python(*, allow_stdin: bool) -> dict:
    """A request as jupyter_client makes it."""
    return Session().msg("execute_request", {"code": "", "silent": False, "allow_stdin": allow_stdin})


def from_javascript() -> dict:
    """A request as JupyterLab makes it: https://github.com/jupyterlab/jupyterlab/blob/main/packages/services/src/kernel/messages.ts."""
    ids = {"msg_id": str(uuid.uuid4()), "session": str(uuid.uuid4())}
    return {"header": {**ids, "username": ""}, "content": {"code": "", "allow_stdin": True}}


class Kernel:
    def __init__(self, request: dict) -> None:
        self._request = request

    def get_parent(self, channel: str) -> dict:
        assert channel == "shell"
        return self._request


class Shell:
    def __init__(self, request: dict | None = None) -> None:
        if request is not None:
            self.kernel = Kernel(request)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (from_python(allow_stdin=True), DisplayMode.APPEND),
        (from_python(allow_stdin=False), DisplayMode.FINAL),
        (from_javascript(), DisplayMode.UPDATE),
        ({}, DisplayMode.UPDATE),
        ({"header": {"msg_id": "_1_2", "session": ""}}, DisplayMode.UPDATE),
    ],
)
def test_the_request_says_what_sent_it(request_, expected):
    assert mode.choose(Shell(request_), "auto") is expected


@pytest.mark.parametrize("setting", ["update", "append"])
def test_a_setting_decides(setting):
    assert mode.choose(Shell(from_python(allow_stdin=True)), setting).value == setting
    assert mode.choose(Shell(from_javascript()), setting).value == setting


def test_without_a_kernel_it_depends_on_the_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert mode.choose(Shell(), "auto") is DisplayMode.TERMINAL
    assert mode.choose(Shell(), "update") is DisplayMode.TERMINAL
    assert mode.choose(Shell(), "append") is DisplayMode.APPEND
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert mode.choose(Shell(), "auto") is DisplayMode.APPEND
