"""Notifications that a file was written to: inotify(7), with a timerfd_create(2) that limits how often they come."""

from __future__ import annotations

import ctypes
import os
import select
from contextlib import ExitStack, suppress

from vllm_magic.linux.libc import LIBC, checked

IN_MODIFY = 0x2  # include/uapi/linux/inotify.h; IN_NONBLOCK and IN_CLOEXEC are the flags of open(2)
TFD_NONBLOCK, TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
CLOCK_MONOTONIC = 1


class Watch:
    """A descriptor for poll(2) that becomes readable when the file is written to, at most once in an interval.

    It causes no wake-up while no process writes. It follows the file when the file is moved or deleted.

    Args:
        path: the file.
        interval: the shortest time between two notifications, in seconds.

    Raises:
        OSError: the file is gone, or the limits of this user are reached (EMFILE, ENOSPC: inotify(7)).
    """

    def __init__(self, path: str, interval: float) -> None:
        self._interval = interval
        with ExitStack() as opened:
            self._inotify = checked(LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            opened.callback(os.close, self._inotify)
            checked(LIBC.inotify_add_watch(self._inotify, os.fsencode(path), IN_MODIFY))
            self._timer = checked(LIBC.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC))
            opened.callback(os.close, self._timer)
            self._epoll = opened.enter_context(select.epoll())
            self._epoll.register(self._timer, select.EPOLLIN)
            # A notification disarms this descriptor, until the timer arms it again.
            self._epoll.register(self._inotify, select.EPOLLIN | select.EPOLLONESHOT)
            self._opened = opened.pop_all()

    def fileno(self) -> int:
        """The descriptor that becomes readable when `was_written` is to be called."""
        return self._epoll.fileno()

    def was_written(self) -> bool:
        """Whether the file was written to since the last call that returned True. Such a call begins a new interval."""
        ready = {fd for fd, _ in self._epoll.poll(0)}
        if self._timer in ready:
            os.read(self._timer, 8)
            self._epoll.modify(self._inotify, select.EPOLLIN | select.EPOLLONESHOT)
        if self._inotify not in ready:
            return False
        with suppress(BlockingIOError):
            while os.read(self._inotify, 4096):
                pass
        seconds, nanoseconds = divmod(int(self._interval * 1e9), 10**9)
        once = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)  # struct itimerspec
        checked(LIBC.timerfd_settime(self._timer, 0, once, None))
        return True

    def close(self) -> None:
        """Stop watching."""
        self._opened.close()
