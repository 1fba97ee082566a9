"""A flag that is set once, and for which threads can wait."""

from __future__ import annotations

import threading
from contextlib import suppress


class Latch:
    """A flag that is set once, and never cleared. Safe to use from any thread, and from a signal handler of the program.

    `threading.Event` holds a lock while its methods run Python code. A signal handler that interrupts one of them, and calls
    the same event or waits for a thread that does, never returns.
    """

    def __init__(self) -> None:
        self._set = False
        # Held until the latch is set. A thread that takes it in `wait` releases it at once.
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Set the latch, and wake the waiting threads; a second call does nothing."""
        self._set = True
        self._open()

    def is_set(self) -> bool:
        """Whether the latch is set."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Wait until the latch is set, for at most ``timeout`` seconds; return whether it is set."""
        if not self.is_set():
            try:
                self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
            finally:  # also if a signal handler raises an error after `acquire`
                if self.is_set():
                    self._open()
        return self._set

    def _open(self) -> None:
        with suppress(RuntimeError):  # another thread has released it
            self._lock.release()
