"""Hearing that a file is written to, without looking at it: inotify(7), with a timerfd_create(2) for rests."""

from __future__ import annotations

import ctypes
import os
import select
from contextlib import ExitStack, suppress

IN_MODIFY = 0x2  # include/uapi/linux/inotify.h; IN_NONBLOCK and IN_CLOEXEC are the flags of open(2)
TFD_NONBLOCK, TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
CLOCK_MONOTONIC = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """A descriptor for poll(2): readable once the file was written to, then at rest however much is written.

    While nobody writes it causes no wake-up. It stays with the file when that is moved or deleted.

    Args:
        path: the file.
        rest: seconds between two times that it is readable.

    Raises:
        OSError: the file is gone, or the limits of this user are reached (EMFILE, ENOSPC: inotify(7)).
    """

    def __init__(self, path: str, rest: float) -> None:
        self._rest = rest
        with ExitStack() as opened:
            self._news = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            opened.callback(os.close, self._news)
            _checked(_libc.inotify_add_watch(self._news, os.fsencode(path), IN_MODIFY))
            self._timer = _checked(_libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC))
            opened.callback(os.close, self._timer)
            self._either = opened.enter_context(select.epoll())
            self._either.register(self._timer, select.EPOLLIN)
            # Once reported it is disarmed, until the timer arms it again.
            self._either.register(self._news, select.EPOLLIN | select.EPOLLONESHOT)
            self._opened = opened.pop_all()

    def fileno(self) -> int:
        """Readable when `was_written` is to be asked."""
        return self._either.fileno()

    def was_written(self) -> bool:
        """Whether the file was written to since the last time this was True; that begins a rest."""
        ready = {fd for fd, _ in self._either.poll(0)}
        if self._timer in ready:
            os.read(self._timer, 8)
            self._either.modify(self._news, select.EPOLLIN | select.EPOLLONESHOT)
        if self._news not in ready:
            return False
        with suppress(BlockingIOError):
            while os.read(self._news, 4096):
                pass
        seconds, nanoseconds = divmod(int(self._rest * 1e9), 10**9)
        once = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)  # struct itimerspec
        _checked(_libc.timerfd_settime(self._timer, 0, once, None))
        return True

    def close(self) -> None:
        """Stop watching."""
        self._opened.close()


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
