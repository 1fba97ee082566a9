"""The two system calls for pidfds, in every Python.

A Python that was built with headers older than Linux 5.3 has neither `os.pidfd_open` nor `signal.pidfd_send_signal`
(python-build-standalone, which uv installs, until 2026), and the kernel it runs on has both. So nothing else names them.
"""

from __future__ import annotations

import ctypes
import os
import signal

# The numbers are the same on every machine that has been added since (include/uapi/asm-generic/unistd.h), x86 among them.
SYS_PIDFD_SEND_SIGNAL = 424
SYS_PIDFD_OPEN = 434


def open_pid(pid: int) -> int:
    """A pidfd of whoever has this pid now, to be closed by the caller. It does not go into an executed program.

    Raises:
        ProcessLookupError: nobody has it.
        OSError: no descriptor is free (EMFILE, ENFILE), or this system has no pidfds (ENOSYS).
    """
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _call(SYS_PIDFD_OPEN, pid, 0)


def send_to(fd: int, number: int) -> None:
    """Send a signal to the process of this pidfd.

    Raises:
        ProcessLookupError: it is gone.
        PermissionError: it is not ours to signal.
        OSError: this system has no pidfds (ENOSYS).
    """
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(fd, number)
    else:
        _call(SYS_PIDFD_SEND_SIGNAL, fd, number, 0, 0)


def _call(number: int, *words: int) -> int:
    """syscall(2); each word is a whole register, whatever the kernel takes of it."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    result = int(syscall(ctypes.c_long(number), *map(ctypes.c_long, words)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))  # which is a ProcessLookupError for ESRCH, and so on
    return result
