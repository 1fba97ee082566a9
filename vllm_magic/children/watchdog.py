"""Entry point of a process that runs a command for the kernel: ``python -I -S watchdog.py COUNT PIDFD... WORD...``.

The words are the command; COUNT pidfds of other processes come before them. All processes below this one are killed when the
command or one of the other processes ends, when a limit of time is over, or on a signal that requests the end. This process is a
subreaper (prctl(2)), so a process cannot leave it with setsid or a double fork. If this process itself is killed, the kernel
finds the processes below it by their mark (`linux.marks`); if both are killed, another kernel does (`recovery.orphaned_commands`).
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Appended after the standard library, so that no module of this folder hides a standard module.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from vllm_magic.guard.ladder import Ladder, Members
from vllm_magic.linux import marks, processes
from vllm_magic.linux.prctl import become_subreaper, die_with_parent

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
KILLED = 128 + signal.SIGKILL  # the exit code for a command that SIGKILL does not end


class WatchedCommand:
    """Runs a command, and ends all processes below this one.

    Args:
        words: the command line.
        **streams: as for `subprocess.Popen`.

    Raises:
        OSError: the command cannot be run.
    """

    def __init__(self, words: list[str], **streams: Any) -> None:
        self._ended: int | None = None
        parent = os.getpid()

        def tie() -> None:
            for number in ENDING:
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            die_with_parent(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        self._child = subprocess.Popen(
            words,
            start_new_session=True,
            preexec_fn=tie,  # noqa: PLW1509 - this process has one thread
            **streams,
        )

    def has_ended(self) -> bool:
        """Whether the command itself has ended. This also collects the exit status of all other ended children."""
        self._collect()
        return self._ended is not None

    def end(self) -> int:
        """Kill all processes that are left, and return the command's exit code, or 128 plus the number of the signal."""
        Ladder(_below, leader=None, is_empty=self._collect, whole_groups=False).run(grace=0.0, patience=0.0)
        if self._ended is None:
            return KILLED
        return self._ended if self._ended >= 0 else 128 - self._ended

    def _collect(self) -> bool:
        """Collect the exit status of ended children. Return whether no child is left; a process without a parent becomes one."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self._child.pid:
                    self._ended = self._child.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return True


def watch(others: list[int], words: list[str], limit: float = math.inf, **streams: Any) -> int:
    """Run a command, and end everything below this process.

    Args:
        others: pidfds, the kernel's first; when one of these processes ends, the command is killed.
        words: the command line.
        limit: seconds after which the command is killed.
        **streams: as for `subprocess.Popen`.

    Returns:
        The exit code of the command, or 128 plus the number of the signal that ended it.
    """
    deadline = time.monotonic() + limit
    for fd in others:
        os.set_inheritable(fd, False)
    become_subreaper()
    with contextlib.suppress(OSError, ValueError):  # limits cannot be set, see `linux.marks`
        marks.seal(os.environ.get(marks.COMMAND_MARK, ""), marks.COMMAND_MARK)
    woken, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    asked: list[int] = []
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    command = WatchedCommand(words, **streams)
    poller = select.poll()
    for fd in (*others, woken):
        poller.register(fd, select.POLLIN)
    while not asked and not command.has_ended():
        rest = deadline - time.monotonic()
        if rest <= 0:
            break
        ready = dict(poller.poll(rest * 1000 if limit < math.inf else None))
        if any(fd in ready for fd in others):
            break
        with contextlib.suppress(BlockingIOError):
            while os.read(woken, 512):
                pass
    return command.end()


def arguments(given: list[str]) -> tuple[list[int], list[str]]:
    """Return the pidfds of a watchdog's command line, and the words after them. The first argument is the number of pidfds."""
    count = int(given[0])
    return [int(fd) for fd in given[1 : 1 + count]], given[1 + count :]


def _below() -> Members:
    table, me = processes.table(), os.getpid()
    return [table[pid] for pid in processes.descendants(table, me) - {me} if table[pid].alive]


if __name__ == "__main__":
    sys.exit(watch(*arguments(sys.argv[1:])))
