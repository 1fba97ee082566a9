"""Keeping a server's log within bounds while the server writes it.

The log goes from the server straight to its file, so nobody sits in between who could count. The guard hears of
writes by inotify and, at most every `REST` seconds, cuts off the beginning.
"""

from __future__ import annotations

import os
from contextlib import suppress

from vllm_magic.linux import files
from vllm_magic.linux.inotify import Watch

LIMIT = 64 * 2**20  # bytes of a log on disk, also while up to 128 MB/s are written to it
REST = 0.25  # seconds between two looks


class LogCap:
    """Caps one log.

    It is cut to a quarter of the limit whenever half of it is reached: the rest is for what comes until the next
    look.

    Args:
        path: the log.
        limit: bytes on disk.

    Raises:
        OSError: it cannot be watched; see `linux.inotify.Watch`.
    """

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self._limit = limit
        self._log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._watch = Watch(path, REST)
        except OSError:
            os.close(self._log)
            raise

    def fileno(self) -> int:
        """Readable when `look` is due: not while nothing is logged, and at most every `REST` seconds."""
        return self._watch.fileno()

    def look(self) -> None:
        """Cut the log if it has become long."""
        # A disk that fails, or is full: the server's business, and no reason to end it.
        with suppress(OSError):
            if self._watch.was_written() and self._on_disk() > self._limit // 2:
                files.keep_end(self._log, self._limit // 4)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()
        os.close(self._log)

    def _on_disk(self) -> int:
        return os.fstat(self._log).st_size - files.first_data(self._log)


def watch(path: str) -> LogCap | None:
    """Cap this log; None where that cannot be: a server without it is better than none."""
    try:
        return LogCap(path)
    except OSError:
        return None
