"""A process that SIGKILL does not end: it is reported, and each later stop or sweep tries again."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path

import by_hand
import pytest
from by_hand import PatientProbe, until
from matrix.resources import Freezer

from vllm_magic import cli, ledger
from vllm_magic.errors import ReleaseFailed
from vllm_magic.guard import ladder
from vllm_magic.guard.record import Phase
from vllm_magic.ledger import Condition
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.marks import MARK
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release import force_kill


@pytest.fixture
def freezer():
    made = Freezer()
    yield made
    made.close()


@pytest.fixture
def soon(monkeypatch):
    """Shorten the limits of this process, but not of the guards."""
    monkeypatch.setattr(ladder, "KILL_LIMIT", 1.0)


def engine(pids: list[int]) -> int:
    return next(pid for pid in pids if "EngineCore" in processes.title(pid))


@pytest.fixture
def left(manager, spec, freezer, soon):
    """A server after a stop, whose engine is frozen."""
    server = manager.start(spec(), timeout=60).server
    frozen = engine([one.identity.pid for one in server.processes()])
    freezer.freeze(frozen)
    with pytest.raises(ReleaseFailed, match=rf"SIGKILL did not end .*\(pid {frozen}\)") as failed:
        manager.stop("tiny")
    assert [pid for pid, _ in failed.value.left] == [frozen]
    return server


def test_a_stop_tries_again(manager, spec, left, freezer, traces):
    assert manager.servers() == {"tiny": left}
    assert left.log()
    for again in (manager.stop, manager.stop_all, lambda: manager.start(spec())):
        with pytest.raises(ReleaseFailed, match="SIGKILL did not end"):
            again()
        assert manager.servers() == {"tiny": left}
        assert left.state == "failed"
        assert len(ledger.entries()) == 1
    freezer.thaw()
    release = manager.stop("tiny")
    assert release.verified
    (ended,) = release.ended
    assert ended.name.startswith("VLLM::EngineCor")  # one that is ending has but its short name
    assert manager.servers() == {}
    assert left.log()
    traces.check()


def test_a_start_tries_again(manager, spec, left, freezer, traces):
    freezer.thaw()
    server = manager.start(spec(), timeout=60).server
    assert server is not left
    assert left.state == "released"
    assert server.stop().verified
    traces.check()


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize("has_ended", [False, True])
def test_a_terminal_tries_again(manager, freezer, traces, capsys, has_ended):
    """Also where the last process has ended by the time of the second try."""
    assert cli.main(["stop", "tiny"]) == cli.TO_DO
    assert "SIGKILL did not end" in capsys.readouterr().err
    (entry,) = ledger.entries()
    assert entry.condition is Condition.OWNED
    members = [one.identity for one in entry.processes]
    freezer.thaw()
    if has_ended:
        assert pidfd.wait_for_all(members, by_hand.LIMIT) == set()
    assert cli.main(["stop", "tiny"]) == cli.DONE
    assert ledger.entries() == []
    assert manager.stop("tiny").verified
    traces.check()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("before", [False, True])
def test_one_that_loses_its_mark(freezer, tmp_path, before):
    """An ending process loses its environment before its device files are closed."""
    paths = ledger.Folder(secrets.token_hex(4), *[tmp_path / name for name in ("folder", "t", "log", "kept")])
    with by_hand.bystander(mark={MARK: paths.id}) as process:
        freezer.freeze(process.pid)
        identity = by_hand.identity(process.pid)
        losing = threading.Timer(0.0 if before else 0.4, lose_environment, [process.pid])
        losing.start()
        if before:
            losing.join()
        try:
            outcome = force_kill.kill_server(paths, None, [identity] if before else ())
            losing.join()
            environment = processes.environment(process.pid)
        finally:
            freezer.thaw()
        assert environment == {}
        assert [tuple(row[:2]) for row in outcome.left] == [identity]
        assert process.wait(60) == -signal.SIGKILL


def lose_environment(pid: int) -> None:
    """Overwrite it in the process's memory, at the address from proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    start, end = int(fields[47]), int(fields[48])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(bytes(end - start))


@pytest.mark.usefixtures("soon")
def test_of_a_kernel_that_died(home, executable, freezer, traces, monkeypatch):
    """The guards keep the folder, so that a sweep finds the process that they could not end."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    probe = PatientProbe()
    with by_hand.kernel():
        (entry,) = ledger.entries()
        frozen = engine([one.identity.pid for one in entry.processes])
        freezer.freeze(frozen)
    until(lambda: ledger.read_entry(entry.path).condition is Condition.ORPHANED, "the guards live on")
    entry = ledger.read_entry(entry.path)
    assert [one.identity.pid for one in entry.processes] == [frozen]
    assert entry.record.phase is not Phase.KEPT
    (swept,) = sweep(probe)
    assert "NOT released" in swept.text
    assert ledger.read_entry(entry.path).condition is Condition.ORPHANED
    freezer.thaw()
    until(lambda: not entry.processes, "it lives on")
    assert [swept.release for swept in sweep(probe)] == [None]
    probe.close()
    assert os.listdir(home) == ["logs"]
    traces.check()


KILLED = """
import subprocess, sys
from matrix.resources import Freezer
made = Freezer()
nothing = subprocess.DEVNULL
child = subprocess.Popen(["sleep", "300"], stdin=nothing, stdout=nothing, start_new_session=True)
made.freeze(child.pid)
print(made.path, child.pid, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_test_run_left_is_removed():
    with contextlib.ExitStack() as stack:
        runs = []
        for _ in range(2):
            path = os.pathsep.join([str(Path(by_hand.__file__).parent), os.environ.get("PYTHONPATH", "")])
            run = subprocess.Popen(
                [sys.executable, "-c", KILLED],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            stack.callback(run.communicate)
            stack.callback(run.kill)
            group, pid = run.stdout.readline().split()
            runs.append((run, Path(group), by_hand.identity(int(pid))))
        killed, alive = runs
        killed[0].kill()
        killed[0].wait()  # another test may remove what it left at once
        Freezer().close()
        assert not killed[1].exists()
        assert not processes.is_alive(killed[2])
        assert alive[1].exists()
        assert processes.is_alive(alive[2])
    Freezer().close()
    assert not alive[1].exists()
    assert not processes.is_alive(alive[2])
