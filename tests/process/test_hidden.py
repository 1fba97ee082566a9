"""A process of a server that can be neither seen nor ended is reported as left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import stand_in
from by_hand import LIMIT, until

from vllm_magic import ledger
from vllm_magic.guard import record as records
from vllm_magic.linux import marks, pidfd, processes
from vllm_magic.linux.processes import Identity

# Has a /proc that hides what is another user's, as an administrator mounts it (hidepid, proc(5)). Root sees and ends
# everything by its group, CAP_SYS_PTRACE and CAP_KILL: the mount names another group, the exec gives these up.
HIDE = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
CLONE_NEWNS, PR_CAPBSET_DROP, CAP_KILL, CAP_SYS_PTRACE = 0x20000, 24, 5, 19
assert libc.unshare(CLONE_NEWNS) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2,gid=65533", "proc", "/proc"], check=True)
for capability in (CAP_KILL, CAP_SYS_PTRACE):
    assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""

KERNEL = """
import json, sys, vllm_magic
from vllm_magic.errors import ReleaseFailed
from vllm_magic.guard import ladder
from vllm_magic.manager.manager import manager

def stop():
    try:
        released = manager.stop("tiny", grace=0.5)
        print(json.dumps(["released", released.verified]), flush=True)
    except ReleaseFailed as error:
        print(json.dumps([str(error), list(error.left)]), flush=True)

server = vllm_magic.start("tiny", env=json.loads(sys.argv[1]))
ladder.KILL_LIMIT = 1.0  # of what is done here
print(server.pid, flush=True)
for line in sys.stdin:
    stop()
"""


@contextlib.contextmanager
def hiding(program: str, *words: str):
    with subprocess.Popen(
        [sys.executable, "-c", HIDE, program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_other(one: processes.Process) -> bool:
    return processes.title(one.identity.pid).endswith("::Other")


@pytest.fixture
def kernel(home, executable, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    with hiding(KERNEL, json.dumps(stand_in.options(other_user=True))) as process:
        leader = int(process.stdout.readline())
        (entry,) = ledger.entries()
        assert entry.leader.pid == leader
        (other,) = [one.identity for one in marks.members(entry.folder.mark, entry.leader) if is_other(one)]
        yield process, entry, other
        pidfd.send(other, signal.SIGKILL)


def test_a_stop_says_that_something_is_left(kernel, traces):
    process, entry, other = kernel

    def stop() -> list:
        process.stdin.write("stop\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    for _ in range(2):  # of the guards, and of the kernel
        said, left = stop()
        assert "tiny is not released: SIGKILL did not end a process that /proc hides" in said
        assert [pid for pid, _ in left] == [other.pid]
        assert processes.is_alive(other)
        assert records.read_known_processes(str(entry.path))[0] == [other.pid, 0]
    assert pidfd.send(other, signal.SIGKILL)
    assert stop() == ["released", True]
    assert ledger.entries() == []
    traces.check()


SWEEP = """
import json
from vllm_magic import ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard import ladder
from vllm_magic.recovery.sweep import sweep
ladder.KILL_LIMIT = 1.0
print(json.dumps([[one.text, one.verified] for one in sweep(Probe())]), flush=True)
"""


def test_a_sweep_leaves_the_folder(kernel, traces):
    """The guards and the kernel were killed at once, so no guard has adopted the process."""
    process, entry, other = kernel
    guards = [Identity(*entry.record.outer), Identity(*entry.record.inner)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for one in (*guards, processes.read(process.pid).identity):
            assert pidfd.send(one, number)
    process.wait()
    assert pidfd.wait_for_all(guards, LIMIT) == set()
    for _ in range(2):
        with hiding(SWEEP) as sweeper:
            ((said, verified),) = json.loads(sweeper.stdout.readline())
            sweeper.wait()
        assert "NOT released" in said
        assert not verified
        assert processes.is_alive(other)
        assert records.read_known_processes(str(entry.path))
    os.kill(other.pid, signal.SIGKILL)
    until(lambda: not processes.is_alive(other), "it lives on")
