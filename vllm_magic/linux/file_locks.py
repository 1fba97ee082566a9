"""The processes that hold locks of files."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

# proc_locks(5): "1: FLOCK  ADVISORY  WRITE 4711 08:01:393302 0 EOF"; a process that waits for the lock has "->" after the number
_LOCK = re.compile(r"\d+: (?:FLOCK|POSIX|OFDLCK) +\S+ +WRITE +(\d+) +\w+:\w+:(\d+) ")


def holder(path: Path) -> int | None:
    """Return the pid of a process that holds a write lock of this file; None if there is none, or it cannot be seen.

    Files are compared by inode alone: on overlay file systems the device in /proc/locks is another one than that of stat(2).
    """
    with suppress(OSError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            match = _LOCK.match(line)
            if match and int(match[2]) == inode and int(match[1]) > 0:
                return int(match[1])
    return None
