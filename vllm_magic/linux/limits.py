"""The limits of the machine for the children of this process: open files, processes, shared memory."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from typing import TYPE_CHECKING

from vllm_magic.linux import control_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux has it


def open_files() -> int | None:
    """Return the most files that a child can open, after it has raised its own limit as far as allowed; None for any number."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if most == resource.RLIM_INFINITY else most


def processes_left(root: str = "/") -> int | None:
    """Return how many more processes and threads this user, or the container, can have; None if there is no limit.

    Where other users' processes are hidden, the result may be too large, and is never too small.

    Args:
        root: the folder that contains /proc and /sys.
    """
    return min([*_left_to_user(root), *_left_to_groups(root)], default=None)


def free_shared_memory(path: str = SHARED_MEMORY) -> int | None:
    """Return the free bytes of shared memory; None if there is no folder for it."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _left_to_user(root: str) -> Iterator[int]:
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    user = os.getuid()
    if most == resource.RLIM_INFINITY or user == 0:  # getrlimit(2): the limit is not enforced for root
        return
    yield max(0, most - sum(_threads(root, user)))


def _threads(root: str, user: int) -> Iterator[int]:
    """Yield the number of threads of each process of this user."""
    proc = os.path.join(root, "proc")
    for name in filter(str.isdecimal, os.listdir(proc)):
        with contextlib.suppress(OSError):  # it has ended, or is hidden
            if os.stat(f"{proc}/{name}").st_uid == user:
                yield len(os.listdir(f"{proc}/{name}/task"))


def _left_to_groups(root: str) -> Iterator[int]:
    for line, mount in (("0::", ""), (":pids:", "/pids")):  # cgroups version 2, version 1
        for folder in control_groups.folders(root, line, mount):
            with contextlib.suppress(ValueError):  # "max", or no such file
                most, used = (
                    int(control_groups.read(f"{folder}/{name}")) for name in ("pids.max", "pids.current")
                )
                yield max(0, most - used)
