"""A flag that is set once, and that threads wait for."""

from __future__ import annotations

import threading
from contextlib import suppress


class Latch:
    """Is set once, for good. Safe to use from any thread, and from a signal handler of the program.

    `threading.Event` holds a lock while its methods run Python code. A signal handler that interrupts one of them, and calls
    the same event or waits for a thread that does, never returns.
    """

    def __init__(self) -> None:
        self._set = False
        self._lock = (
            threading.Lock()
        )  # held until it is set; whoever gets it by waiting gives it back at once
        self._lock.acquire()

    def set(self) -> None:
        """Set it, and wake those that wait; a second call does nothing."""
        self._set = True
        self._open()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, ``timeout`` seconds at most; return whether it is."""
        if not self.is_set():
            try:
                self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
            finally:  # also when a signal handler raises right behind it
                if self.is_set():
                    self._open()
        return self._set

    def _open(self) -> None:
        with suppress(RuntimeError):  # another thread has released it
            self._lock.release()
