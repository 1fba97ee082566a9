"""What cannot be seen from here, and why, so that "nothing found" is not taken for "nothing there"."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.linux import details

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.linux.processes import Table

FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_CAP_SYS_PTRACE = 1 << 19  # include/uapi/linux/capability.h


def spots(snapshot: Snapshot, table: Table, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Return each blind spot as one line.

    Args:
        snapshot: the snapshot of the GPUs.
        table: the table of processes.
        proc: the path of /proc, for tests.
    """
    return (*_of_the_driver(snapshot, table), *_of_the_machine(proc), *_of_other_users(table, proc))


def _of_the_driver(snapshot: Snapshot, table: Table) -> Iterator[str]:
    if snapshot.problem:
        yield f"GPUs: {snapshot.problem}."
    for gpu in snapshot.gpus:
        where = f"GPU {gpu.index}"
        if gpu.used is None:
            yield f"{where}: its memory, which the driver does not report (as with unified memory)."
        if gpu.processes is None:
            yield f"{where}: the holders of its memory, since the driver does not list processes (as with MIG, and in some containers)."
            continue
        if any(process.used is None for process in gpu.processes):
            yield f"{where}: the memory of each process, which the driver does not report (as on WSL2, and in some containers)."
        foreign = [str(process.pid) for process in gpu.processes if process.pid not in table]
        if foreign:
            yield f"{where}: pid {', '.join(foreign)}, which the driver lists: a process of a container, or a hidden one."


def _of_the_machine(proc: Path) -> Iterator[str]:
    if "microsoft" in _text(proc / "sys/kernel/osrelease").lower():
        yield "Processes of Windows and of other WSL2 distributions, which may hold GPU memory too."
    try:
        namespace = str((proc / "self/ns/pid").readlink())
    except OSError:
        namespace = FIRST_NAMESPACE
    if namespace != FIRST_NAMESPACE:
        yield "Processes outside this container, which may hold GPU memory too."
    hidden = _hidepid(_text(proc / "mounts"))
    if hidden and os.getuid():
        yield f"Other users' processes: /proc is mounted with hidepid={hidden}."


def _of_other_users(table: Table, proc: Path) -> Iterator[str]:
    if _can_inspect(proc):
        return
    mine = os.getuid()
    others = {uid for pid in table if (uid := details.uid(pid)) not in (mine, None)}
    if others:
        yield "The open ports and device files of other users' processes, which only they and root can see."


def _can_inspect(proc: Path) -> bool:
    """Whether this process may inspect every other process (capabilities(7))."""
    for line in _text(proc / "self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_PTRACE)
    return False


def _hidepid(mounts: str) -> str:
    """Return the value of hidepid with which /proc is mounted (proc(5)); "" where no process is hidden."""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == "/proc" and fields[2] == "proc":  # noqa: PLR2004 - fstab(5)
            options = dict(option.partition("=")[::2] for option in fields[3].split(","))
            value = options.get("hidepid", "")
            return "" if value in ("0", "off") else value
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
