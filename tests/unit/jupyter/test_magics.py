"""`%vllm` in a real IPython shell: what a person types, and what comes back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from IPython.core.error import UsageError
from IPython.utils.capture import capture_output

from vllm_magic.commands.front_end import NOTEBOOK
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands import registry
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.manager.manager import manager


def run(shell, line: str):
    return shell.run_line_magic("vllm", line)


def cell(shell, source: str) -> str:
    """What a person sees of a cell, errors included."""
    with capture_output() as seen:
        shell.run_cell(source)
    return seen.stdout + seen.stderr


def plain(shell, value) -> str:
    return shell.display_formatter.format(value)[0]["text/plain"]


@pytest.mark.parametrize("words", ["reap x", "reap --pid", "reap --pid x", "reap --pid 1"])
def test_reap_of_what_cannot_be(shell, words):
    with pytest.raises(UsageError):
        run(shell, words)


def test_reap_without_a_state_folder_of_ones_own(shell, home):
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    for words in ("reap", "reap --pid 1"):
        with pytest.raises(VllmMagicError, match="entered by others"):
            run(shell, words)
    home.chmod(0o700)


@pytest.fixture
def interrupted_stop(shell):
    """Interrupt each stop of the servers tiny and other, whose states are then ``states``: ``interrupted_stop(states)``."""
    servers = {
        name: SimpleNamespace(name=name, state=ServerState.READY, spec=ServerSpec(name))
        for name in ("tiny", "other")
    }

    with pytest.MonkeyPatch.context() as patch:  # ends before the shell stops what is left

        def interrupt(states: list[str]) -> None:
            def stop(*_, **__):
                for server, state in zip(servers.values(), states, strict=True):
                    server.state = ServerState(state)
                raise KeyboardInterrupt

            for stopping in ("stop", "stop_all"):
                patch.setattr(type(manager), stopping, stop)

        patch.setattr(type(manager), "servers", lambda _: dict(servers))
        for finding in ("get", "get_even_past"):
            patch.setattr(type(manager), finding, lambda _, name: servers[name])
        patch.setattr(type(manager), "check", lambda *_: None)
        patch.setattr(type(manager), "expect", lambda *_: None)
        yield interrupt


def test_an_interrupted_attach_says_what_happened(shell, monkeypatch):
    there = {}

    def attach(name, report):
        there["tiny"] = object()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(manager), "attach", lambda _, name, report: attach(name, report))
        patch.setattr(type(manager), "servers", lambda _: dict(there))
        with pytest.raises(VllmMagicError, match="Interrupted: tiny is attached, and its start continues"):
            run(shell, "attach tiny")


STOPPING, STILL_READY = "stopping", "ready"


@pytest.mark.parametrize(
    ("words", "states", "seen"),
    [
        (
            "stop tiny",
            [STOPPING, STILL_READY],
            "the release of tiny continues in the background. %vllm shows",
        ),
        (
            "stop --all",
            [STOPPING, STOPPING],
            "the release of tiny, other continues in the background. %vllm shows",
        ),
        (
            "stop --all",
            [STOPPING, STILL_READY],
            "tiny continues in the background. Not stopped: other. %vllm shows",
        ),
        (
            "restart tiny",
            [STOPPING, STILL_READY],
            "the release of tiny continues in the background. %vllm shows",
        ),
    ],
)
def test_an_interrupted_stop_says_whose_release_continues(shell, interrupted_stop, words, states, seen):
    interrupted_stop(states)
    with pytest.raises(VllmMagicError) as error:
        run(shell, words)
    assert seen in str(error.value)


@pytest.mark.parametrize("words", ["stop tiny", "stop --all", "restart tiny"])
def test_an_interrupt_before_a_release_was_asked_for_promises_none(shell, interrupted_stop, words):
    interrupted_stop([STILL_READY, STILL_READY])
    with pytest.raises(KeyboardInterrupt):
        run(shell, words)


def test_no_vllm(shell, traces, monkeypatch):
    monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE")
    monkeypatch.setenv("PATH", "/nowhere")
    seen = cell(shell, "%vllm start tiny")
    assert "ExecutableNotFound: vLLM is not installed here. Install it" in seen
    assert "Traceback" not in seen
    assert "/nowhere/vllm is not a program" in cell(shell, "%vllm start tiny --executable /nowhere/vllm")
    assert run(shell, "").rows == ()
    traces.check()


def test_help_names_every_command(shell):
    text = plain(shell, run(shell, "help"))
    for name in registry.commands():
        assert f"\n{NOTEBOOK.line(name)} " in text
    for words in ("--help", "-h"):
        assert plain(shell, run(shell, words)) == text
