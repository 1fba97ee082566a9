"""What the machine runs out of: memory, disk, descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.linux import processes
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

FREEZERS = Path("/sys/fs/cgroup/freezer")

DISK = 128 << 20  # bytes of a small disk
ROUNDS = 100  # in which it is filled


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on the folder; needs root."""
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "matrix", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all the space that is left there. Guards write and remove small files meanwhile, so it takes several rounds."""
    with (folder / "full").open("wb", buffering=0) as file:
        for _ in range(ROUNDS):
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
            if os.statvfs(folder).f_bavail == 0:
                return
    raise AssertionError(f"{folder} is not full after {ROUNDS} rounds")


class MemoryGroup:
    """A memory cgroup, version 1 or 2 as the machine has it; needs root. Its folder is `path`.

    Raises:
        OSError: neither can be written. There is no way round: what this tests needs one.
    """

    def __init__(self, name: str) -> None:
        base = Path("/sys/fs/cgroup")
        self._first = (base / "memory" / "memory.limit_in_bytes").exists()
        if self._first:
            self.path = base / "memory" / name
        else:
            (base / "cgroup.subtree_control").write_text("+memory")
            self.path = base / name
        self.path.mkdir()

    def limit(self, more: int) -> None:
        """Allow ``more`` bytes than are in use."""
        used = self._read("memory.usage_in_bytes" if self._first else "memory.current")
        name = "memory.limit_in_bytes" if self._first else "memory.max"
        (self.path / name).write_text(str(used + more))

    def kills(self) -> int:
        """How many processes it has killed for memory."""
        text = (self.path / ("memory.oom_control" if self._first else "memory.events")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def _read(self, name: str) -> int:
        return int((self.path / name).read_text())

    def close(self) -> None:
        """Remove it; its processes are gone."""
        with contextlib.suppress(OSError):  # the last of them may not be collected yet
            os.rmdir(self.path)


class Freezer:
    """A cgroup (version 1) whose processes no signal ends while they are frozen, SIGKILL too; needs root.

    The name of its folder says whose it is: the PID namespace, the pid and the start time of the process that made it. What
    such processes left that were killed is removed first.

    Attributes:
        path: its folder.

    Raises:
        OSError: the machine has none. There is no way round: what this tests needs one.
    """

    def __init__(self) -> None:
        for left in FREEZERS.glob("vllm-magic-test-*"):
            if _is_of_the_dead(left.name):
                _remove(left)
        me = processes.read(os.getpid())
        assert me
        owner = f"{_namespace()}-{me.identity.pid}-{me.identity.start}"
        self.path = FREEZERS / f"vllm-magic-test-{owner}-{secrets.token_hex(4)}"
        self.path.mkdir()

    def freeze(self, pid: int) -> None:
        """Freeze one process; returns when it is."""
        (self.path / "cgroup.procs").write_text(str(pid))
        state = self.path / "freezer.state"
        state.write_text("FROZEN")
        while state.read_text() != "FROZEN\n":  # a moment: until then it is FREEZING
            os.sched_yield()

    def thaw(self) -> None:
        """Let it go on; what it was sent meanwhile takes effect."""
        _thaw(self.path)

    def close(self) -> None:
        """Thaw what is frozen, and remove the group once it is empty."""
        self.thaw()
        _remove_when_empty(self.path)


def _thaw(group: Path) -> None:
    (group / "freezer.state").write_text("THAWED")


def _remove_when_empty(group: Path) -> None:
    deadline = time.monotonic() + 10
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    group.rmdir()


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _is_of_the_dead(name: str) -> bool:
    """Whether the process that made a group of this name is of this PID namespace, and has ended."""
    found = re.fullmatch(r"vllm-magic-test-(\d+)-(\d+)-(\d+)-[0-9a-f]{8}", name)
    if found is None:
        return False
    namespace, pid, start = map(int, found.groups())
    return namespace == _namespace() and not processes.is_alive(Identity(pid, start))


def _remove(group: Path) -> None:
    """Kill what is frozen in a group of a dead test run, and remove the group. Another run may do the same meanwhile."""
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)  # it is frozen, so the pid is still its own
        _thaw(group)
        _remove_when_empty(group)
