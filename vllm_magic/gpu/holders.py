"""Who has the driver's device files open: the proof that needs no driver, only /proc.

VRAM comes back when the last open of a device file is closed, so a process that has none open holds none. It
needs neither root nor fuser, but sees only what this user may see: other users' processes are `unreadable`,
and a /proc mounted with hidepid, or another PID namespace, hides processes altogether.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# NVIDIA; WSL2; ROCm.
_PATTERNS = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "dxg", "kfd", "dri/renderD*")

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h


@dataclass(frozen=True)
class Holders:
    """What a scan found.

    Attributes:
        by_pid: the device files that each process has open, or mapped where it has none open.
        unreadable: pids of processes whose files this user may not see; they may hold anything.
    """

    by_pid: dict[int, tuple[str, ...]]
    unreadable: frozenset[int]


def device_files(dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the device files of all GPUs of this machine, sorted."""
    return tuple(sorted(str(path) for pattern in _PATTERNS for path in dev.glob(pattern)))


def holders(paths: Iterable[str], pids: Collection[int] | None = None) -> Holders:
    """Find the processes that have one of `paths` open or mapped.

    Args:
        paths: device files; one that does not exist is passed over.
        pids: the processes to look at, by default all.
    """
    devices = _Devices(paths)
    held = {pid: _held(pid, devices) for pid in (_all_pids() if pids is None else pids)}
    return Holders(
        by_pid={pid: tuple(sorted(files)) for pid, files in held.items() if files},
        unreadable=frozenset(pid for pid, files in held.items() if files is None),
    )


class _Devices:
    """The wanted files, by what /proc tells of an open or mapped file."""

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
            # Only what may be a device is stat'ed: for a file on a dead network drive stat never returns.
            if not target.startswith("/dev/") and Path(target).name not in self._names:
                return None
            status = link.stat()
        except FileNotFoundError:  # closed since
            return None
        same_file = self._by_file.get((status.st_dev, status.st_ino))
        # The same device may have another node: a container's, or one that udev made anew.
        return same_file or (self._by_device.get(status.st_rdev) if stat.S_ISCHR(status.st_mode) else None)

    def mapped(self, line: str) -> str | None:
        """Return the wanted file of a line of /proc/PID/maps (proc_pid_maps(5))."""
        _range, _mode, _offset, device, inode, *name = line.split(maxsplit=5)
        if inode == "0":
            return None
        major, minor = (int(number, 16) for number in device.split(":"))
        path = "".join(name).removesuffix(" (deleted)")
        # Some file systems show another device number here than stat does.
        by_path = path if path in self._paths else None
        return self._by_file.get((os.makedev(major, minor), int(inode))) or by_path


def _held(pid: int, devices: _Devices) -> set[str] | None:
    """Return what a process holds; None when it may not be known."""
    try:
        return _held_by(Path(f"/proc/{pid}"), devices)
    except PermissionError:
        return set() if _is_kernel_thread(pid) else None
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return set()


def _held_by(process: Path, devices: _Devices) -> set[str]:
    """Return the wanted files that a process has open; where that is none, those that it has mapped.

    Threads share both. A leader that ended before its threads is a zombie, and has neither: the first thread
    that has answers for all.
    """
    tasks = list((process / "task").iterdir())  # the leader comes first
    links = next(filter(None, map(_links, tasks)), [])
    return {path for link in links if (path := devices.opened(link))} or _mapped(tasks, devices)


def _links(task: Path) -> list[Path]:
    try:
        return list((task / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):  # a zombie
        return []


def _mapped(tasks: list[Path], devices: _Devices) -> set[str]:
    lines = next(filter(None, map(_maps, tasks)), [])
    return {path for line in lines if (path := devices.mapped(line))}


def _maps(task: Path) -> list[str]:
    try:
        return list(filter(None, os.fsdecode((task / "maps").read_bytes()).split("\n")))
    except (FileNotFoundError, ProcessLookupError):  # it has ended
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
