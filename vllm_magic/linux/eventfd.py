"""An eventfd(2) that wakes a thread in poll(2), and a request to give up that can be waited for either way."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

# Seconds for another thread to be done with it; a signal handler may keep that one in the middle.
PATIENCE = 1.0


class EventFd:
    """Any thread may set it, also while it is closed, which it is at first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._fd: int | None = None

    def open(self) -> None:
        """Have a descriptor, which is not set.

        Raises:
            OSError: there is none.
        """
        with self._lock:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable once it is set; only to be asked while it is open."""
        assert self._fd is not None  # noqa: S101 - see above
        return self._fd

    def set(self) -> None:
        """Wake who polls it; nothing happens where it is closed."""
        with self._lock:
            if self._fd is not None:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Give the descriptor back; it stays open if another thread does not get done with it."""
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
        finally:
            self._lock.release()


@dataclass(frozen=True)
class Cancellation:
    """A request to give up.

    Attributes:
        event: set once it is asked for, for good; for a thread that waits for nothing else.
        wake: set with it, for a thread that polls; whoever sets both sets ``event`` first.
    """

    event: threading.Event = field(default_factory=threading.Event)
    wake: EventFd = field(default_factory=EventFd)
