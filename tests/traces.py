"""A check of what a server could leave behind: processes, shared memory, files, sockets."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import by_hand
from stand_in.leftovers import mark_of

from vllm_magic.linux import address_space, processes
from vllm_magic.linux.marks import MARK

SHARED_MEMORY = "/dev/shm"
MARKED = re.compile(r"(?:psm_|sem\.mp-)([0-9a-f]{8})[_-]")  # named by the stand-in (stand_in.leftovers)
MARIMO = re.compile(
    r"\d+-\w{8}\.\w+"
)  # a file of a widget, for as long as the kernel of marimo's editor lives
# Seconds for a segment without a mark to go: a test that runs at the same time may have made it.
PATIENCE = 20.0


class Traces:
    """Compares the machine with its state when this object was made.

    Tests that run at the same time do not see each other's processes and segments: a process is recognised by the mark
    and the state folder in its environment, a segment of the stand-in by the mark in its name.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._mark = mark_of(str(home))
        self._shared_memory = set(os.listdir(SHARED_MEMORY))

    def processes(self) -> list[str]:
        """Return the living processes of servers with this state folder; guards have no such environment."""
        found = []
        for pid, process in processes.table().items():
            if process.alive and pid != os.getpid() and self._is_ours(pid):
                found.append(f"{pid} {processes.title(pid)}")
        return found

    def _is_ours(self, pid: int) -> bool:
        try:
            environment = address_space.read(pid, f"/proc/{pid}/environ")
        except OSError:
            return False
        return f"{MARK}=".encode() in environment and os.fsencode(self.home) in environment

    def files(self) -> list[str]:
        """Return what is in the state folder, without the logs, and the TMPDIRs of servers that have ended."""
        if not self.home.exists():
            return []
        found = [path for path in self.home.rglob("*") if path.name != "logs" and path.parent.name != "logs"]
        return [str(path) for path in [*found, *temporary_folders(self.home)]]

    def shared_memory(self) -> set[str]:
        """Return the new segments that no process maps; a mapped segment belongs to another living server.

        A segment with this state folder's mark counts at once; one without a mark counts if it is still there after
        `PATIENCE`.
        """
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE
        left = self._unmapped()
        while left and not any(self._mark in name for name in left) and time.monotonic() < deadline:
            pause.wait(0.1)
            left &= self._unmapped()
        return left

    def _unmapped(self) -> set[str]:
        new = set(os.listdir(SHARED_MEMORY)) - self._shared_memory
        new = {name for name in new if not MARIMO.fullmatch(name)}
        ours = {name for name in new if (marked := MARKED.match(name)) is None or marked[1] == self._mark}
        left = ours - mapped(ours)
        return {name for name in left if _inode(Path(SHARED_MEMORY, name))}  # others have vanished meanwhile

    def wait(self) -> None:
        """Wait until nothing is left, at most `by_hand.LIMIT` seconds: after a kernel has ended, its guards need a moment."""
        pause, deadline = threading.Event(), time.monotonic() + by_hand.LIMIT
        while (self.processes() or self.files()) and time.monotonic() < deadline:
            pause.wait(0.1)
        self.check()

    def check(self) -> None:
        """Check that nothing is left."""
        # A text, since pytest cuts a list.
        assert not (living := self.processes()), "\n".join(living)
        assert not (files := self.files()), "\n".join([*files, *self._logs()])
        assert not (segments := self.shared_memory()), "\n".join(sorted(segments))

    def _logs(self) -> list[str]:
        """Return the end of the log of each server, for a message about what is left."""
        return [f"--- {path}\n{_read(path)[-3000:]}" for path in self.home.rglob("*log") if path.is_file()]


def temporary_folders(home: Path) -> list[Path]:
    """Return the TMPDIRs outside the state folder that are there, of its servers and of those that have left a log."""
    names = [path.name for path in home.glob("????????")]
    names += [path.name.removesuffix(".vllm-magic.log")[-8:] for path in home.glob("logs/*.vllm-magic.log")]
    return [path for name in names if (path := Path(f"/tmp/vllm-{name}")).is_dir()]


def mapped(names: set[str]) -> set[str]:
    """Return those of the names that a process maps; by inode, since a semaphore is mapped under another name."""
    if not names:
        return set()
    lines = [
        line.split() for pid in processes.table() for line in _read(Path(f"/proc/{pid}/maps")).splitlines()
    ]
    inodes = {line[4] for line in lines if len(line) > 5 and line[5].startswith(f"{SHARED_MEMORY}/")}
    return {name for name in names if _inode(Path(SHARED_MEMORY, name)) in inodes}


def _inode(path: Path) -> str:
    try:
        return str(path.stat().st_ino)
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
