"""Commands that outlive their kernel: a benchmark whose kernel and watchdog were killed leaves the descendants that have fled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest
from by_hand import LIMIT, PatientProbe, identity, until

from vllm_magic.children import command_mark
from vllm_magic.children.command_mark import CommandMark
from vllm_magic.doctor import survey
from vllm_magic.doctor.findings import Topic
from vllm_magic.linux import marks, pidfd, processes
from vllm_magic.recovery import orphaned_commands
from vllm_magic.recovery.sweep import sweep_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_magic.doctor.findings import Finding
    from vllm_magic.linux.processes import Identity

T = TypeVar("T")
TRIES = 10

KERNEL = """
import contextlib, sys
from vllm_magic.children.child import ChildProcess
with contextlib.closing(ChildProcess([sys.executable, "-c", sys.argv[1]], {})) as child:
    for lines in child.lines(1.0):
        for line in lines:
            print(line, flush=True)
"""
# Its child leaves its session, loses its parent, ignores signals, and executes a program without an environment.
FLEEING = """
import os, signal, time
def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    os.execve("/bin/sleep", ["sleep", "300"], {})
if os.fork() == 0:
    daemon()
os.wait()
time.sleep(300)
"""
SLEEP = """
import os
from vllm_magic.linux import marks
if {sealed}:
    marks.seal("{mark.identifier}", marks.COMMAND_MARK)
os.write(1, b"x")
os.execve("/bin/sleep", ["sleep", "300"], {{marks.COMMAND_MARK: "{mark.identifier}"}})
"""


class Running(NamedTuple):
    """A kernel with a command: the kernel, the watchdog, the command, and the daemon that the command has started."""

    kernel: Identity
    watchdog: Identity
    command: Identity
    daemon: Identity


@contextlib.contextmanager
def run() -> Iterator[Running]:
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL, FLEEING], stdout=subprocess.PIPE, text=True
    ) as kernel:
        daemon = processes.read(int(kernel.stdout.readline()))
        until(lambda: processes.title(daemon.identity.pid) == "sleep 300", "it does not execute sleep")
        watchdog = daemon.parent
        (command,) = processes.children(watchdog) - {daemon.identity.pid}
        made = Running(*map(identity, (kernel.pid, watchdog, command)), daemon.identity)
        try:
            yield made
        finally:
            for one in made:
                pidfd.send(one, signal.SIGKILL)


@pytest.fixture
def running() -> Iterator[Running]:
    with run() as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(orphaned_commands, "WATCHDOG_LIMIT", 0.0)


def kill_with_watchdog(running: Running) -> None:
    """Kill kernel and watchdog. Both are stopped first, so that none notices the death of the other."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for victim in (running.kernel, running.watchdog):
            assert pidfd.send(victim, number)
    # The command ends with its parent (prctl(2), PR_SET_PDEATHSIG).
    assert pidfd.wait_for_all(running[:3], LIMIT) == set()


def until_found(look: Callable[[Running], list[T]]) -> tuple[Running, T]:
    """Return an orphaned command, and what a look at it finds. The sweep of another test that runs now may be faster: then
    there is another command to look at.
    """
    for _ in range(TRIES):
        with run() as running:
            kill_with_watchdog(running)
            found = look(running)
            assert len(found) == 1 or not (found or processes.is_alive(running.daemon))
            if found:
                return running, found[0]
    raise AssertionError(f"{TRIES} commands were swept by other tests")


def commands_of(kernel: int) -> list[orphaned_commands.OrphanedCommand]:
    """Return the orphaned commands of the kernel with this pid; other tests that run now may have others."""
    return [one for one in orphaned_commands.find() if one.kernel == kernel]


def test_kernel_and_watchdog_are_killed(running):
    kill_with_watchdog(running)
    orphaned_commands.end()
    assert not processes.is_alive(running.daemon)
    assert commands_of(running.kernel.pid) == []


def test_what_is_found():
    running, found = until_found(lambda running: commands_of(running.kernel.pid))
    assert [one.identity for one in found.processes] == [running.daemon]


def test_the_watchdog_is_stopped_and_the_kernel_killed(running):
    assert pidfd.send(running.watchdog, signal.SIGSTOP)
    assert pidfd.send(running.kernel, signal.SIGKILL)
    assert pidfd.wait_for_all([running.kernel], LIMIT) == set()
    orphaned_commands.end()
    assert not any(map(processes.is_alive, running))


def test_reap_ends_them_and_says_so(running, home):
    kill_with_watchdog(running)
    with contextlib.closing(PatientProbe()) as probe:
        said = [one for one in sweep_all(probe) if getattr(one, "kernel", None) == running.kernel.pid]
    assert not processes.is_alive(running.daemon)
    for one in said:  # empty if the sweep of another test that runs now was faster
        assert one.verified
        assert one.text == (
            f"A command of a kernel that died (pid {running.kernel.pid}) was still running, and is ended: "
            f"sleep 300 (pid {running.daemon.pid})."
        )


def test_doctor_names_them(home, executable):
    def look(running: Running) -> list[Finding]:
        with contextlib.closing(PatientProbe()) as probe:
            findings = survey.survey(probe, executable).findings
        kernel = f"(pid {running.kernel.pid})"
        return [one for one in findings if one.topic is Topic.COMMAND and kernel in one.what]

    running, found = until_found(look)
    assert found.what == (
        f"The kernel (pid {running.kernel.pid}) of a command is gone, and 1 process of the command still runs: "
        f"sleep 300 (pid {running.daemon.pid})."
    )
    assert found.command == "vllm-magic reap"


def test_the_command_of_a_living_kernel_goes_on(running):
    orphaned_commands.end()
    assert all(map(processes.is_alive, running))
    assert pidfd.send(running.watchdog, signal.SIGKILL)  # then the kernel ends the rest
    until(lambda: not processes.is_alive(running.daemon), "it lives on")


@contextlib.contextmanager
def carrying(mark: CommandMark, *, sealed: bool = True, within: tuple[str, ...] = ()) -> Iterator[Identity]:
    """Run `sleep` with this mark, below the program ``within``, which does not have it."""
    words = [sys.executable, "-c", SLEEP.format(mark=mark, sealed=sealed)]
    with subprocess.Popen([*within, *words], stdout=subprocess.PIPE, start_new_session=True) as top:
        try:
            assert top.stdout
            assert top.stdout.read(1) == b"x"
            (pid,) = processes.children(top.pid) if within else (top.pid,)
            until(lambda: processes.title(pid) == "sleep 300", "it does not execute sleep")
            yield identity(pid)
        finally:
            os.killpg(top.pid, signal.SIGKILL)


@pytest.fixture
def gone() -> CommandMark:
    """The mark of a kernel that is gone."""
    with subprocess.Popen(["sleep", "300"]) as kernel:
        start = identity(kernel.pid).start
        kernel.kill()
    return CommandMark(0, start % 2**20, kernel.pid)


def test_a_copied_environment_is_no_proof(gone):
    """As of a person who runs a command with the environment of a benchmark."""
    with carrying(gone) as its, carrying(gone, sealed=False) as copy:
        orphaned_commands.end()
        assert not processes.is_alive(its)
        assert processes.is_alive(copy)


@pytest.mark.parametrize("kind", ["--pid", "--time"])
def test_processes_of_other_namespaces_are_left_alone(gone, kind):
    """As those of a container: the pid or the start time in their mark is that of a kernel inside."""
    within = ("unshare", "--user", "--map-root-user", "--fork", "--kill-child", kind)
    with carrying(gone, within=within) as other:
        assert marks.identifier_of(other.pid, marks.COMMAND_MARK) == gone.identifier
        assert commands_of(gone.pid) == []
        orphaned_commands.end()
        assert processes.is_alive(other)


def test_where_there_are_no_seals(gone, monkeypatch):
    """The environment counts, as under gVisor."""
    monkeypatch.setattr(marks, "_allows", lambda _: False)
    marks.is_sealed.cache_clear()
    with carrying(gone, sealed=False) as its:
        orphaned_commands.end()
        assert not processes.is_alive(its)
    marks.is_sealed.cache_clear()


class TestMark:
    def test_it_is_found_again_in_its_identifier(self):
        mark = command_mark.new()
        assert mark.pid == os.getpid()
        assert not mark.is_kernel_gone
        assert command_mark.parse(mark.identifier) == mark
        assert command_mark.new().number == mark.number + 1

    @pytest.mark.parametrize("identifier", ["", "x", "-1", "0x1", "1" * 14, "+" + "0" * 12])
    def test_others_are_refused(self, identifier):
        assert command_mark.parse(identifier) is None

    def test_a_kernel_whose_start_is_not_known_is_never_gone(self, gone):
        assert gone.is_kernel_gone
        assert not gone._replace(start=command_mark.UNKNOWN_START).is_kernel_gone

    def test_of_a_process_whose_proc_is_foreign(self, monkeypatch):
        monkeypatch.setattr("vllm_magic.linux.machine.proc_problem", lambda: "foreign")
        assert command_mark.new().start == command_mark.UNKNOWN_START
