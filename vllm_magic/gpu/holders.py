"""Find the processes that have the driver's device files open. This proof needs /proc, but no driver.

VRAM comes back when the last open device file is closed, so a process without an open device file holds no VRAM. The search
needs neither root nor fuser, but it sees only what this user may see: the files of other users' processes are
`unreadable`, and a /proc mounted with hidepid, or another PID namespace, hides processes completely.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.linux import address_space

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# NVIDIA; WSL2; ROCm.
_PATTERNS = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "dxg", "kfd", "dri/renderD*")

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h


@dataclass(frozen=True)
class Holders:
    """The result of a search.

    Attributes:
        by_pid: for the pid of each process, the device files that it has open, or has mapped if it has none open.
        unreadable: the pids of the processes whose files cannot be seen: this user may not see them, or the address space
            of the process is locked. They may hold anything.
    """

    by_pid: dict[int, tuple[str, ...]]
    unreadable: frozenset[int]


def device_files(dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the device files of all GPUs of this machine, sorted."""
    return tuple(sorted(str(path) for pattern in _PATTERNS for path in dev.glob(pattern)))


def holders(paths: Iterable[str], pids: Collection[int] | None = None) -> Holders:
    """Find the processes that have one of `paths` open or mapped.

    Args:
        paths: the device files; a missing file is ignored.
        pids: the processes to search; by default all.
    """
    devices = _Devices(paths)
    held = {pid: _held(pid, devices) for pid in (_all_pids() if pids is None else pids)}
    return Holders(
        by_pid={pid: tuple(sorted(files)) for pid, files in held.items() if files},
        unreadable=frozenset(pid for pid, files in held.items() if files is None),
    )


class _Devices:
    """The wanted files, with the numbers by which /proc identifies an open or mapped file."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_file: dict[tuple[int, int], str] = {}
        self._by_device: dict[int, str] = {}
        for path in map(Path, paths):
            if path.exists():
                status = path.stat()
                self._by_file[status.st_dev, status.st_ino] = str(path)
                if stat.S_ISCHR(status.st_mode):
                    self._by_device[status.st_rdev] = str(path)
        self._paths = set(self._by_file.values())
        self._names = {Path(path).name for path in self._paths}

    def opened(self, link: Path) -> str | None:
        """Return the wanted file that an entry of /proc/PID/fd leads to."""
        try:
            target = str(link.readlink()).removesuffix(" (deleted)")
            # `stat` is called only for a possible device file: for a file on a dead network drive it never returns.
            if not target.startswith("/dev/") and Path(target).name not in self._names:
                return None
            status = link.stat()
        except FileNotFoundError:  # the file was closed meanwhile
            return None
        same_file = self._by_file.get((status.st_dev, status.st_ino))
        # The same device may have another node: in a container, or because udev made a new node.
        return same_file or (self._by_device.get(status.st_rdev) if stat.S_ISCHR(status.st_mode) else None)

    def mapped(self, line: str) -> str | None:
        """Return the wanted file that a line of /proc/PID/maps names (proc_pid_maps(5)), or None."""
        _range, _mode, _offset, device, inode, *name = line.split(maxsplit=5)
        if inode == "0":
            return None
        major, minor = (int(number, 16) for number in device.split(":"))
        path = "".join(name).removesuffix(" (deleted)")
        # On some file systems the device number here differs from that of `stat`.
        by_path = path if path in self._paths else None
        return self._by_file.get((os.makedev(major, minor), int(inode))) or by_path


def _held(pid: int, devices: _Devices) -> set[str] | None:
    """Return the wanted files that a process has open or mapped; None if they cannot be seen."""
    try:
        return _held_by(pid, devices)
    except TimeoutError:
        return None
    except PermissionError:
        return set() if _is_kernel_thread(pid) else None
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return set()


def _held_by(pid: int, devices: _Devices) -> set[str]:
    """Return the wanted files that a process has open; if there are none, the files that it has mapped.

    All threads of a process share its files and mappings. A main thread that ended before the others is a zombie, and shows
    neither, so the first thread that shows some is used.
    """
    tasks = list(Path(f"/proc/{pid}/task").iterdir())  # the main thread comes first
    links = next(filter(None, map(_links, tasks)), [])
    return {path for link in links if (path := devices.opened(link))} or _mapped(pid, tasks, devices)


def _links(task: Path) -> list[Path]:
    try:
        return list((task / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):  # the thread is a zombie
        return []


def _mapped(pid: int, tasks: list[Path], devices: _Devices) -> set[str]:
    lines = next(filter(None, (_maps(pid, task) for task in tasks)), [])
    return {path for line in lines if (path := devices.mapped(line))}


def _maps(pid: int, task: Path) -> list[str]:
    try:
        return list(filter(None, os.fsdecode(address_space.read(pid, f"{task}/maps")).split("\n")))
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return []


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _is_kernel_thread(pid: int) -> bool:
    try:
        after_name = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        )
    except OSError:
        return False
    return bool(int(after_name.split()[6]) & _KERNEL_THREAD)
