"""The sessions of one process: a server ends with the last session that uses it."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from vllm_magic.manager import sessions
from vllm_magic.manager.sessions import Sessions

LIMIT = 60.0  # seconds; for what hangs


class Server:
    """As much of a server as sessions need."""

    def __init__(self, keep=None, *, over: bool = False) -> None:
        self.spec = SimpleNamespace(keep=keep)
        self.state = SimpleNamespace(over=over)
        self.stopped = threading.Event()
        self._run = SimpleNamespace(begin_stop=self.stopped.set)


class Session:
    """A thread that lives until `end`."""

    def __init__(self, several: Sessions) -> None:
        self._end = threading.Event()
        self._seen = threading.Event()
        self.thread = threading.Thread(target=self._end.wait, args=(LIMIT,), daemon=True)
        self.thread.start()
        several.at_end(self.thread, self._seen.set)

    def end(self) -> None:
        """End it, and wait until its servers were seen to."""
        self._end.set()
        assert self._seen.wait(LIMIT)


@pytest.fixture
def several():
    return Sessions()


def test_a_server_ends_with_its_session(several):
    session, server = Session(several), Server()
    several.hold(server, session.thread)
    several.hold(server, session.thread)
    assert not server.stopped.is_set()
    session.end()
    assert server.stopped.is_set()


def test_the_last_session_ends_it(several):
    first, second, server, other = Session(several), Session(several), Server(), Server()
    several.hold(server, first.thread)
    several.hold(server, second.thread)
    several.hold(other, first.thread)
    first.end()
    assert not server.stopped.is_set()
    assert other.stopped.is_set()
    second.end()
    assert server.stopped.is_set()


@pytest.mark.parametrize("server", [Server(keep=60.0), Server(over=True)], ids=["kept", "over"])
def test_what_a_session_does_not_end(several, server):
    session = Session(several)
    several.hold(server, session.thread)
    several.hold(Server(), None)
    session.end()
    assert not server.stopped.is_set()


class TestWhichSession:
    """What marimo says of itself, as `sessions.current` asks for it."""

    @pytest.fixture
    def marimo(self, monkeypatch):
        said = SimpleNamespace(mode="run")
        said.running_in_notebook = lambda: said.mode is not None
        said.app_meta = lambda: said
        said.Thread = type("Thread", (threading.Thread,), {})
        monkeypatch.setitem(sys.modules, "marimo", said)
        return said

    def test_of_an_app(self, marimo):
        assert sessions.current() is threading.current_thread()

    @pytest.mark.parametrize("mode", ["edit", None])
    def test_of_the_editor_and_of_a_script(self, marimo, mode):
        marimo.mode = mode
        assert sessions.current() is None

    def test_of_a_thread_that_a_cell_has_started(self, marimo):
        seen = []
        thread = marimo.Thread(target=lambda: seen.append(sessions.current()))
        thread.start()
        thread.join(LIMIT)
        assert seen == [None]

    def test_without_marimo(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "marimo", raising=False)
        assert sessions.current() is None
