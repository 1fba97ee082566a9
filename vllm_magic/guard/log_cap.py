"""Limit the size of a server's log while the server writes it.

The server writes to the file itself, so no process in between can count the bytes. The guard is notified of writes by
inotify, at most once in `CHECK_INTERVAL` seconds, and cuts off the beginning of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from vllm_magic.linux import files
from vllm_magic.linux.inotify import Watch

DiskCall = Callable[[Callable[[], None]], object]
LARGEST_LOG = 64 * 2**20  # bytes of a log on disk, also while up to 128 MB/s are written to it
CHECK_INTERVAL = 0.25  # seconds between two checks of the size


def _directly(cut: Callable[[], None]) -> None:
    cut()


class LogCap:
    """Limits the size of one log.

    A log that reaches half of the limit is cut to a quarter of it. The other half is for the bytes that are written
    before the next check.

    Args:
        path: the log.
        limit: bytes on disk.
        call: calls a function that uses the disk.

    Raises:
        OSError: the log cannot be watched; see `linux.inotify.Watch`.
    """

    def __init__(self, path: str, limit: int = LARGEST_LOG, call: DiskCall = _directly) -> None:
        self._limit = limit
        self._call = call
        self._log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._watch = Watch(path, CHECK_INTERVAL)
        except OSError:
            os.close(self._log)
            raise

    def fileno(self) -> int:
        """The descriptor that becomes readable when the log was written to, at most every `CHECK_INTERVAL` seconds."""
        return self._watch.fileno()

    def trim(self) -> None:
        """Cut off the beginning of the log if the log is too long. Call this when the descriptor is readable."""
        with suppress(OSError):
            if self._watch.was_written():
                self._call(self._cut)

    def _cut(self) -> None:
        # A disk that fails, or is full, must not end the guard.
        with suppress(OSError):
            if self._on_disk() > self._limit // 2:
                files.keep_end(self._log, self._limit // 4)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()
        os.close(self._log)

    def _on_disk(self) -> int:
        """Return the bytes of the log without the hole at its beginning, which takes no space."""
        return os.fstat(self._log).st_size - files.first_data(self._log)


def watch(path: str, call: DiskCall = _directly) -> LogCap | None:
    """Return a cap for this log; None if the log cannot be watched. The server then runs without a cap.

    Args:
        path: the log.
        call: as for `LogCap`.
    """
    try:
        return LogCap(path, call=call)
    except OSError:
        return None
