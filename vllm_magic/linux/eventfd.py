"""An eventfd(2) that wakes a thread in poll(2), and a cancellation for threads that poll or wait."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from vllm_magic.linux.latch import Latch

# Seconds to wait for another thread that uses the descriptor; a signal handler may have interrupted it.
LOCK_LIMIT = 1.0


class EventFd:
    """An eventfd, closed at first. Any thread may call `set` at any time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._fd: int | None = None

    def open(self) -> None:
        """Open the descriptor; it is not set.

        Raises:
            OSError: no descriptor is free.
        """
        with self._lock:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor, which becomes readable when it is set. Call this only while it is open."""
        assert self._fd is not None  # noqa: S101 - see above
        return self._fd

    def set(self) -> None:
        """Wake the threads that poll the descriptor; do nothing while it is closed."""
        with self._lock:
            if self._fd is not None:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Close the descriptor. It stays open if another thread uses it for longer than `LOCK_LIMIT` seconds."""
        if not self._lock.acquire(timeout=LOCK_LIMIT):
            return
        try:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
        finally:
            self._lock.release()


@dataclass(frozen=True)
class Cancellation:
    """A request to give up. The caller sets ``event`` first, and then ``wake``.

    Attributes:
        event: for a thread that only waits for this event; it stays set.
        wake: for a thread that polls.
    """

    event: Latch = field(default_factory=Latch)
    wake: EventFd = field(default_factory=EventFd)
