"""The control groups of this process (cgroups(7)), which limit a container."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def folders(root: str, line: str, mount: str) -> Iterator[str]:
    """Yield the folders of this process's control group and of those above it.

    Args:
        root: the folder that contains /proc and /sys.
        line: a part of the group's line in /proc/PID/cgroup: "0::" for version 2, ":memory:" for a controller of version 1.
        mount: the folder of the controller, below /sys/fs/cgroup; "" for version 2.
    """
    lines = read(os.path.join(root, "proc/self/cgroup")).splitlines()
    group = next((row.partition(line)[2] for row in lines if line in row), None)
    while group is not None:
        yield os.path.join(root, f"sys/fs/cgroup{mount}{group}")
        group = os.path.dirname(group) if group not in ("", "/") else None


def read(path: str) -> str:
    """Return the text of a file; "" if it cannot be read."""
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read()
    return ""
