"""Servers that vllm_magic did not start, and kernels that die with their guards: real processes, which the test ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import stand_in

from vllm_magic import ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard.record import Phase
from vllm_magic.linux import marks, pidfd, processes
from vllm_magic.linux.processes import Identity, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from vllm_magic.gpu.devices import Snapshot

T = TypeVar("T")
LIMIT = 60.0  # seconds; nothing takes this long unless it fails
KERNEL = """
import sys, vllm_magic
vllm_magic.start("tiny", name=sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""

LISTEN = """
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that no event announces."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def remove_tree(folder: Path) -> None:
    """Remove a folder in which another process may be writing a file."""

    def is_gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    until(is_gone, f"{folder} is still there")


def in_time(function: Callable[[], T]) -> T:
    """Return the result of a function that may hang; one that hangs is left behind in its thread."""
    result: Future[T] = Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again by Future.result
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return result.result(LIMIT)


def until_ready(kernel: int) -> None:
    """Wait until the guards have recorded that each server of this kernel is ready; the kernel knows it earlier."""

    def ready() -> bool:
        found = [one.record for one in ledger.entries() if one.record and one.record.kernel[0] == kernel]
        return bool(found) and all(record.phase == Phase.READY for record in found)

    until(ready, "the record does not say that it is ready")


def identity(pid: int) -> Identity:
    process = processes.read(pid)
    assert process
    return process.identity


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def bystander(*, mark: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sleep 300` in a session of its own until the block ends, also by an exception.

    Args:
        mark: the mark of the server that the process is to belong to, as in its environment; None for no server.
    """
    process = subprocess.Popen(
        ["sleep", "300"],
        env={**os.environ, **(mark or {})},
        start_new_session=True,
        preexec_fn=(lambda: marks.seal(mark[marks.MARK])) if mark else None,  # noqa: PLW1509 - it only sets a limit
    )
    try:
        # The kernel closes the descriptor that Popen waits for before /proc has
        # its command line and environment (fs/exec.c, fs/binfmt_elf.c).
        until(lambda: processes.environment(process.pid), "not executed")
        yield process
    finally:
        process.kill()
        process.wait()


# A script has no job control: both commands are in the shell's process group, in a session younger than the server.
DEBUGGING = """
sleep 300 & echo $!
env -i "$@" sleep 301 & echo $!
while [ -r /proc/self/stat ]; do sleep 300; done
"""


@contextlib.contextmanager
def debugging(pid: int, *, shell_lives: bool = True) -> Iterator[tuple[Process, Process]]:
    """Run two commands of a shell; the second has a process's environment, as by `env $(cat /proc/PID/environ) command`.

    Args:
        pid: the pid of the process that has the environment.
        shell_lives: whether the shell goes on to live; else init becomes the parent of the commands.
    """
    variables = [f"{name}={value}" for name, value in processes.environment(pid).items()]
    assert variables
    shell = subprocess.Popen(
        ["sh", "-c", DEBUGGING, "sh", *variables], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert shell.stdout
    other, command = [int(shell.stdout.readline()) for _ in range(2)]
    until(lambda: processes.title(command) == "sleep 301", "not executed")
    if not shell_lives:
        shell.kill()
        shell.wait()
    found = [processes.read(one) for one in (other, command)]
    try:
        assert found[0]
        assert found[1]
        yield found[0], found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()


class PatientProbe(Probe):
    """A probe that waits longer: on a machine that runs many tests at once, a healthy driver can be slow."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        super().__init__(start_timeout=LIMIT, env=env)

    def snapshot(self, timeout: float = LIMIT, *, may_start: bool = True) -> Snapshot:
        return super().snapshot(max(timeout, LIMIT), may_start=may_start)


class ByHand:
    """A `vllm serve` in a session of its own, as from a terminal."""

    def __init__(self, executable: str, *flags: str, **options: object) -> None:
        self.port = free_port()
        arguments = [executable, "serve", "tiny", "--port", str(self.port), *flags]
        env = {**os.environ, **stand_in.options(**{"life_s": 300, **options})}
        self._process = subprocess.Popen(
            arguments, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.leader = identity(self._process.pid)
        until(self._answers, "the stand-in is not ready")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health").status == 200
        return False

    def kill_server(self) -> None:
        """Kill the API server alone with SIGKILL; init adopts its children."""
        self._process.kill()
        self._process.wait()

    def pid(self, title: str) -> int:
        """Return the pid of the living process whose title ends so."""
        found = [
            one.identity.pid for one in self.living() if processes.title(one.identity.pid).endswith(title)
        ]
        assert len(found) == 1, (title, found)
        return found[0]

    def living(self) -> list[processes.Process]:
        table = processes.table()
        members = processes.server_members(table, self.leader)
        return [table[pid] for pid in members if table[pid].alive]

    def end(self) -> None:
        for one in self.living():
            pidfd.send(one.identity, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        pidfd.wait_for_all([one.identity for one in self.living()], LIMIT)


@contextlib.contextmanager
def kernel(name: str = "tiny") -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with one server until the block ends; the server ends with the program."""
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        until_ready(process.pid)
        try:
            yield process
        finally:
            process.kill()


def kill_with_guards(process: subprocess.Popen[bytes]) -> ledger.Entry:
    """Kill a kernel and both guards of its only server at the same time; return the server's entry in the ledger."""
    (entry,) = [one for one in ledger.entries() if one.record and one.record.kernel[0] == process.pid]
    assert entry.record
    assert entry.record.outer
    assert entry.record.inner
    all_three = [Identity(*one) for one in (entry.record.kernel, entry.record.outer, entry.record.inner)]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, none can react to another's end
        for one in all_three:
            pidfd.send(one, number)
    process.wait()
    assert not pidfd.wait_for_all(all_three, LIMIT)
    return entry


def end(entry: ledger.Entry) -> None:
    """Kill the living processes of a server that has lost its guards."""
    for one in entry.processes:
        pidfd.send(one.identity, signal.SIGKILL)
    until(lambda: not entry.processes, "the orphans do not end")


@contextlib.contextmanager
def listening(port: int):
    """Run another process that listens on the port, until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"listens\n"
        yield process
        process.communicate()
