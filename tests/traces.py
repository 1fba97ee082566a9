"""What a server could leave behind: processes, shared memory, files, sockets."""

from __future__ import annotations

import os
from pathlib import Path

from vllm_magic.linux import processes
from vllm_magic.linux.marks import MARK

SHARED_MEMORY = "/dev/shm"


class Traces:
    """Compares the machine with what it was when this was made.

    Processes are known by the mark in their environment together with the state folder in it, so tests that
    run at the same time do not see each other's.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._shared_memory = set(os.listdir(SHARED_MEMORY))

    def processes(self) -> list[str]:
        """Living processes of servers that were started with this state folder, and guards of this process."""
        found = []
        for pid, process in processes.table().items():
            if process.alive and pid != os.getpid() and self._is_ours(pid):
                found.append(f"{pid} {processes.title(pid)}")
        return found

    def _is_ours(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"{MARK}=".encode() in environment and os.fsencode(self._home) in environment

    def files(self) -> list[str]:
        """What is in the state folder but logs."""
        if not self._home.exists():
            return []
        return [
            str(path) for path in self._home.rglob("*") if path.name != "logs" and path.parent.name != "logs"
        ]

    def shared_memory(self) -> set[str]:
        """New segments that no process maps any more; a mapped one is of another server that lives."""
        new = set(os.listdir(SHARED_MEMORY)) - self._shared_memory
        segments = processes_that_map(new)
        return {name for name in new if name not in segments}

    def check(self) -> None:
        """Nothing is left."""
        assert self.processes() == []
        assert (files := self.files()) == [], files
        assert self.shared_memory() == set()


def processes_that_map(names: set[str]) -> set[str]:
    """Those of the names which some process maps; by inode, since a semaphore is mapped under another name."""
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
