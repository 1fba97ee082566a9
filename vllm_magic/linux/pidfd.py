"""Signals and waits by pidfd (pidfd_open(2)): never to a process that took over a pid.

Everything that has to do with pidfds goes through here: a Python that was built with headers older than Linux 5.3 has
neither `os.pidfd_open` nor `signal.pidfd_send_signal` (python-build-standalone, which uv installs, until 2026), and the
kernel it runs on has both.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from vllm_magic.linux.processes import Identity, is_alive, read

if TYPE_CHECKING:
    from collections.abc import Iterable

# Enough to wake up early; the rest is seen at the next look. Keeps clear of the usual limit of 1,024 descriptors.
MOST_AT_ONCE = 64
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


def open_pidfd(identity: Identity) -> int | None:
    """A pidfd of this very process, to be closed by the caller; None when it is gone.

    Raises:
        OSError: no descriptor is free (EMFILE, ENFILE).
    """
    try:
        fd = open_pid(identity.pid)
    except ProcessLookupError:
        return None
    # The pid may have been taken over before the open: the start time tells.
    process = read(identity.pid)
    if process is None or process.identity != identity:
        os.close(fd)
        return None
    return fd


def send(identity: Identity, number: int) -> bool:
    """Send a signal to this very process; False when it is gone or not ours to signal."""
    fd = open_pidfd(identity)
    if fd is None:
        return False
    try:
        send_to(fd, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(fd)
    return True


def wait_for_any(identities: Iterable[Identity], timeout: float, also: Iterable[int] = ()) -> bool:
    """Return when one of the processes has ended, with all its threads, or after ``timeout`` seconds.

    Descriptors in ``also`` end the wait too, when they are readable: the result is True only then.
    """
    poller = select.poll()
    fds: list[int] = []
    deadline = time.monotonic() + timeout
    others = list(also)
    for other in others:
        poller.register(other, select.POLLIN)
    try:
        for identity in identities:
            if len(fds) == MOST_AT_ONCE:
                break
            fd = open_pidfd(identity)
            if fd is None:
                return False
            fds.append(fd)
            poller.register(fd, select.POLLIN)
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        return any(fd in others for fd, _ in ready)
    finally:
        for fd in fds:
            os.close(fd)


def wait_for_all(identities: Iterable[Identity], timeout: float) -> set[Identity]:
    """Wait until all of the processes have ended; those that live after ``timeout`` seconds are returned."""
    deadline = time.monotonic() + timeout
    left = set(identities)
    while left:
        left = {identity for identity in left if is_alive(identity)}
        rest = deadline - time.monotonic()
        if not left or rest <= 0:
            break
        wait_for_any(left, rest)
    return left
