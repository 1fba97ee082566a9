"""Guards that hang after their kernel's end: the next sweep or stop ends them, and releases their server."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time

import by_hand
import pytest
from by_hand import until
from records import IDENTIFIER, record

from vllm_magic import cli, ledger
from vllm_magic.doctor import checks, survey
from vllm_magic.doctor.findings import Topic
from vllm_magic.errors import VllmMagicError
from vllm_magic.guard import control_client
from vllm_magic.guard import record as records
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.protocol import LaunchRequest
from vllm_magic.guard.record import Phase
from vllm_magic.ledger import Condition
from vllm_magic.lifecycle import state
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.recovery import hung_guards
from vllm_magic.recovery.sweep import sweep

DEAD = [2**22 - 1, 1]  # a kernel that is gone
LIMIT = by_hand.LIMIT


@pytest.fixture
def frozen(home, executable, monkeypatch):
    """A server whose guards were stopped before its kernel died: its entry, and its living processes."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    with by_hand.kernel() as kernel:
        (entry,) = ledger.entries()
        everyone = {*entry.guards, *(one.identity for one in entry.processes)}
        for one in entry.guards:
            assert pidfd.send(one, signal.SIGSTOP)
        until(lambda: entry.are_guards_stopped, "they are not stopped")
        kernel.kill()
        kernel.wait()
    entry = ledger.read_entry(entry.path)
    yield entry, everyone
    for one in everyone:
        pidfd.send(one, signal.SIGKILL)


def test_every_view_shows_hung_guards_and_a_reap_releases_the_server(frozen, probe, traces, capsys):
    entry, everyone = frozen
    assert entry.condition is Condition.HUNG
    assert cli.main(["ps"]) == cli.DONE
    assert "its guards hang" in capsys.readouterr().out
    (found,) = [one for one in survey.survey(probe).findings if one.topic is Topic.GUARDS]
    pids = ", ".join(str(one.pid) for one in entry.guards)
    assert (
        f"of the server tiny is gone, and nothing releases the server: its guards (pid {pids}) are stopped"
        in found.what
    )
    assert found.command == "vllm-magic reap"
    assert cli.main(["reap"]) == cli.DONE
    assert "tiny was left by a kernel that died" in capsys.readouterr().out
    assert pidfd.wait_for_all(everyone, LIMIT) == set()
    traces.check()


def test_the_next_start_needs_its_memory(fake_gpus, frozen, manager, spec, traces):
    _, everyone = frozen
    server = manager.start(spec("other"), timeout=60).server
    assert ["left by a kernel that died" in line for line in manager.news()] == [True]
    assert pidfd.wait_for_all(everyone, LIMIT) == set()
    assert server.stop().vram[0].baseline == 0
    traces.check()


def test_a_stop_in_a_terminal_ends_them(frozen, traces, capsys, monkeypatch):
    monkeypatch.setattr("vllm_magic.recovery.remote_stop.ANSWER_LIMIT", 0.2)
    _, everyone = frozen
    assert cli.main(["stop", "tiny"]) == cli.DONE
    assert "tiny released in" in capsys.readouterr().out
    assert pidfd.wait_for_all(everyone, LIMIT) == set()
    traces.check()


def test_guards_that_continue_release_the_server_themselves(frozen, probe, traces, monkeypatch):
    entry, everyone = frozen
    monkeypatch.setattr(hung_guards, "STOPPED_LIMIT", LIMIT)
    waking = threading.Timer(0.5, lambda: [pidfd.send(one, signal.SIGCONT) for one in entry.guards])
    waking.start()
    assert sweep(probe) == []
    waking.join()
    assert pidfd.wait_for_all(everyone, LIMIT) == set()
    until(lambda: ledger.entries() == [], "the folder stays")
    traces.check()


def test_a_stopped_outer_guard_ends_with_the_inner_one(home, executable, monkeypatch, traces):
    """The inner guard clears the folder, so no record names the stopped outer guard any more."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    with by_hand.kernel() as kernel:
        (entry,) = ledger.entries()
        outer = Identity(*entry.record.outer)
        assert pidfd.send(outer, signal.SIGSTOP)
        kernel.kill()
        kernel.wait()
    assert pidfd.wait_for_all({outer, Identity(*entry.record.inner)}, LIMIT) == set()
    traces.check()


def put(home, **fields):
    path = home / IDENTIFIER
    for folder in (home, path, home / "logs", path / "t"):
        folder.mkdir(mode=0o700, exist_ok=True)
    records.write(str(path), record(IDENTIFIER, kernel=DEAD, **fields))
    return path


@pytest.fixture
def guard():
    """A process in the place of a guard."""
    with by_hand.bystander() as process:
        yield by_hand.identity(process.pid)


def test_a_start_whose_guards_are_stopped_has_an_end(manager, spec, monkeypatch, traces):
    """A signal stops them before they have started the server (a `pkill -STOP python`, a suspended job)."""
    monkeypatch.setattr(state, "START_LIMIT", 2.0)
    spawn = GuardPair._spawn

    def spawn_and_stop(request: LaunchRequest, control: int, kernel: int) -> subprocess.Popen[bytes]:
        guard = spawn(request, control, kernel)
        guard.send_signal(signal.SIGSTOP)
        return guard

    monkeypatch.setattr(GuardPair, "_spawn", staticmethod(spawn_and_stop))
    with pytest.raises(
        VllmMagicError, match=r"The guards \(pid \d+\) did not start the server within .* tiny was released"
    ):
        manager.start(spec(), timeout=by_hand.LIMIT)
    traces.check()


def test_guards_that_do_not_answer(home, probe, guard, monkeypatch):
    """They live, are not stopped, and accept clients whose messages they never read."""
    monkeypatch.setattr(control_client, "ANSWER_LIMIT", 0.2)
    path = put(home, outer=list(guard), inner=DEAD)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "control"))
        listener.listen()
        (found,) = checks.guards(survey.survey(probe).servers)
        assert "its guards do not answer" in found.what
        assert [one.name for one in sweep(probe)] == ["tiny"]
    assert not processes.is_alive(guard)
    assert ledger.entries() == []


def test_guards_that_accept_no_connection_are_not_hung(home, probe, guard):
    path = put(home, outer=list(guard))
    assert ledger.read_entry(path).condition is Condition.RELEASING
    assert sweep(probe) == []
    assert processes.is_alive(guard)


def stop(guard: Identity) -> None:
    assert pidfd.send(guard, signal.SIGSTOP)
    until(lambda: processes.read(guard.pid).state == "T", "it is not stopped")


@pytest.mark.parametrize(("rest", "condition"), [(600.0, Condition.KEPT), (-1.0, Condition.HUNG)])
def test_hung_guards_of_a_kept_server_count_after_its_time(home, probe, guard, rest, condition):
    stop(guard)
    path = put(home, outer=list(guard), phase=Phase.KEPT, keep=600.0, kept_until=time.monotonic() + rest)
    entry = ledger.read_entry(path)
    assert entry.condition is condition
    (found,) = checks.guards(survey.survey(probe).servers)
    assert found.command == (f"kill -CONT {guard.pid}" if rest > 0 else "vllm-magic reap")
    assert bool(sweep(probe)) is (rest < 0)
    assert processes.is_alive(guard) is (rest > 0)


def test_guards_that_are_stopped_while_the_kernel_lives(home, probe, guard):
    """A sweep leaves them alone, and the doctor reports them."""
    stop(guard)
    put(home, outer=list(guard))
    me = processes.read(1)
    records.write(str(home / IDENTIFIER), record(IDENTIFIER, kernel=list(me.identity), outer=list(guard)))
    (found,) = checks.guards(survey.survey(probe).servers)
    assert f"The guards of the server tiny (pid {guard.pid}) are stopped" in found.what
    assert sweep(probe) == []
    assert processes.is_alive(guard)
