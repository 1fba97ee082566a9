"""What is short, gone or silent is named in one line, with a cause."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from vllm_magic.children import child
from vllm_magic.engine import command
from vllm_magic.engine.client import connection
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup import log
from vllm_magic.errors import InvalidOption, ServerNotFound, VllmMagicError
from vllm_magic.linux import processes, sessions
from vllm_magic.provisioning import launch
from vllm_magic.recovery import kept_servers, remote_stop
from vllm_magic.server.server import Server


def failing(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


SHORT = OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
def server(monkeypatch) -> Server:
    made_by = SimpleNamespace(
        command=command.Command(("/x/vllm",), Endpoint("127.0.0.1", 1, "a-key-of-this-test")),
        from_the_start=True,
    )
    made = Server(ServerSpec("m"), made_by, None, lambda _: None, lambda _: None)
    monkeypatch.setattr(made, "_connect", lambda: SimpleNamespace(verify=lambda: None))
    return made


@pytest.mark.parametrize("count", [10**23, -(10**23), 2**63, 0])
def test_more_lines_than_there_can_be(tmp_path, count):
    (tmp_path / "log").write_text("a\nb\n")
    assert log.tail(tmp_path / "log", count) == (["a", "b"] if count > 0 else [])


def test_processes(server, monkeypatch):
    monkeypatch.setattr(
        server._run.lifecycle,
        "_now",
        SimpleNamespace(leader=SimpleNamespace(pid=1), state=server._run.lifecycle.now.state),
    )
    monkeypatch.setattr(sessions, "near", failing(SHORT))
    with pytest.raises(VllmMagicError, match=r"^The processes of m cannot be seen: Too many open files\."):
        server.processes()


def test_a_child(monkeypatch):
    monkeypatch.setattr(child.pidfd_calls, "open_pid", failing(SHORT))
    with pytest.raises(VllmMagicError, match=r"^vllm cannot be run: Too many open files\.$"):
        child.ChildProcess(["vllm"], {})


def test_metrics(server, monkeypatch):
    monkeypatch.setattr(server._run.connector, "api", lambda: SimpleNamespace(metrics=lambda: None))
    with pytest.raises(VllmMagicError, match=r"^m reports no metrics\. Try again") as caught:
        server.metrics(0)
    assert "--disable-log-stats" not in str(caught.value)
    object.__setattr__(server._run, "spec", ServerSpec("m", ("--disable-log-stats",)))
    with pytest.raises(VllmMagicError, match="--disable-log-stats disables them"):
        server.metrics(0)


@pytest.mark.parametrize(("status", "said"), [(304, "Not Modified"), (404, "Not Found"), (799, "no message")])
@pytest.mark.parametrize("message", ["", " ", "."])
def test_a_refusal_without_a_word(status, said, message):
    assert f"tiny answers {status}: {said}." in str(connection.refused("tiny", status, message))


@pytest.mark.parametrize("error", [TimeoutError(), TimeoutError("timed out"), SHORT, OSError()])
def test_guards_that_do_not_answer(monkeypatch, error, tmp_path):
    record = SimpleNamespace(name="tiny", outer=[1, 1], inner=None)
    entry = SimpleNamespace(record=record, path=tmp_path, id="3f9a61c2", guards=(), are_guards_stopped=False)
    monkeypatch.setattr(kept_servers, "AttachedGuards", failing(error))
    with pytest.raises(ServerNotFound, match=r"^tiny cannot be attached: [a-zA-Z][^.]+\. ."):
        kept_servers.take(entry)
    monkeypatch.setattr(remote_stop, "ControlClient", failing(error))
    record.outer = None
    with pytest.raises(VllmMagicError, match=r"cannot be reached \([a-zA-Z][^.]+\)") as caught:
        remote_stop._stop_guards(entry, record, 1.0, 1.0)
    assert "None" not in str(caught.value)


def test_the_working_directory_of_a_restart_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/bin/true")
    gone = tmp_path / "gone"
    with pytest.raises(InvalidOption, match=rf"^The working directory of m, {gone}, is gone\."):
        command.build(ServerSpec("m", cwd=str(gone)))


def test_a_umask_that_keeps_its_own_user_out(tmp_path):
    before = os.umask(0o777)
    try:
        said = str(launch.unusable(PermissionError(errno.EACCES, "Permission denied", str(tmp_path))))
        assert processes.umask() == 0o777
    finally:
        os.umask(before)
    assert "The umask 0777 denies you access" in said
    assert "The umask" not in str(
        launch.unusable(PermissionError(errno.EACCES, "Permission denied", str(tmp_path)))
    )
