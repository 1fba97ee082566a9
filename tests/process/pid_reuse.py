"""Strangers who have every pid of a server that died with its guards: a program for test_pid_reuse.py.

    unshare --pid --fork --mount-proc python pid_reuse.py

In a PID namespace of its own the kernel can be told which pid comes next (/proc/sys/kernel/ns_last_pid, pid_namespaces(7)).
Prints as one JSON object which of these strangers were gone after the sweep, and what it found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from vllm_magic import ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.linux import pidfd, processes
from vllm_magic.recovery.sweep import sweep

KERNEL = """
import sys, vllm_magic
vllm_magic.start("tiny")
print("ready", flush=True)
sys.stdin.read()
"""
LIMIT = 60.0  # seconds


def death_of_everything() -> list[int]:
    """Start a server, and kill its kernel, its guards and all of it so that only its folder is left; their pids."""
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert kernel.stdout is not None
    assert kernel.stdout.readline() == b"ready\n"
    table = processes.table()
    family = [table[pid].identity for pid in (kernel.pid, *processes.descendants(table, kernel.pid))]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for one in family:
            pidfd.send(one, number)
    assert pidfd.wait_for_all(family, LIMIT) == set()
    kernel.wait()
    collect()
    return [one.pid for one in family]


def collect() -> None:
    """Reap what this process has inherited as the namespace's init: a zombie keeps its pid."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def stranger(pid: int) -> None:
    """A process with this pid, in a session of its own, that has a child in it."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os.write(begun, b"1")
        while True:
            signal.pause()
    assert child == pid
    os.read(ready, 1)
    os.close(ready)
    os.close(begun)


def main() -> None:
    pids = death_of_everything()
    for pid in sorted(pids, reverse=True):  # each one's child gets a number behind it
        if processes.read(pid) is None:
            stranger(pid)
    me = os.getpid()
    before = processes.descendants(processes.table(), me)
    taken = [pid for pid in pids if pid in before]
    probe = Probe()
    swept = [one.name for one in sweep(probe)]
    probe.close()
    table = processes.table()
    gone = [pid for pid in before if pid not in table or not table[pid].alive]
    print(
        json.dumps(
            {
                "taken": len(taken),
                "of": len(pids),
                "gone": gone,
                "swept": swept,
                "entries": len(ledger.entries()),
            }
        )
    )


if __name__ == "__main__":
    main()
