"""The two system calls for pidfds, for every Python.

A Python that was built with headers older than Linux 5.3 has neither `os.pidfd_open` nor `signal.pidfd_send_signal`
(python-build-standalone, which uv installs, until 2026), although the running kernel has both system calls. No other module
may use these two functions of the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal

from vllm_magic.linux.libc import LIBC, checked

# The numbers are the same on every architecture (include/uapi/asm-generic/unistd.h), also on x86.
SYS_PIDFD_SEND_SIGNAL = 424
SYS_PIDFD_OPEN = 434


def open_pid(pid: int) -> int:
    """Return a pidfd of the process that has this pid now. The caller closes it; an exec closes it too.

    Raises:
        ProcessLookupError: no process has this pid.
        OSError: no descriptor is free (EMFILE, ENFILE), or this system has no pidfds (ENOSYS).
    """
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _call(SYS_PIDFD_OPEN, pid, 0)


def send_to(fd: int, number: int) -> None:
    """Send a signal to the process of this pidfd.

    Raises:
        ProcessLookupError: the process is gone.
        PermissionError: this user may not signal the process.
        OSError: this system has no pidfds (ENOSYS).
    """
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(fd, number)
    else:
        _call(SYS_PIDFD_SEND_SIGNAL, fd, number, 0, 0)


def _call(number: int, *words: int) -> int:
    """Call syscall(2), with each argument as a whole register."""
    syscall = LIBC.syscall
    syscall.restype = ctypes.c_long
    return checked(syscall(ctypes.c_long(number), *map(ctypes.c_long, words)))
