"""Send signals to processes, and wait for them, by pidfd (pidfd_open(2)): never to a later process with the same pid."""

from __future__ import annotations

import errno
import os
import select
import time
from typing import TYPE_CHECKING

from vllm_magic.linux.pidfd_calls import open_pid, send_to
from vllm_magic.linux.processes import HIDDEN, Identity, hidden, is_alive, read

if TYPE_CHECKING:
    from collections.abc import Iterable

# Processes that one call waits for; the others are checked at the next call. The usual limit is 1,024 descriptors.
MOST_AT_ONCE = 64


def open_pidfd(identity: Identity) -> int | None:
    """Return a pidfd of this very process, which the caller closes; None if the process is gone.

    Raises:
        OSError: no descriptor is free (EMFILE, ENFILE).
    """
    try:
        fd = open_pid(identity.pid)
    except OSError as error:
        # ESRCH; or the number belongs to a thread now: EINVAL, since Linux 6.15 ENOENT.
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise
    # Another process may have got the pid before the open: then the start time differs.
    process = hidden(identity.pid) if identity.start == HIDDEN else read(identity.pid)
    if process is None or process.identity != identity:
        os.close(fd)
        return None
    return fd


def send(identity: Identity, number: int) -> bool:
    """Send a signal to this very process; return False if it is gone, or this user may not signal it.

    A process that /proc hides gets a signal only if it is a child of this process: no other process gets its pid before
    this process has waited for it.
    """
    if identity.start == HIDDEN and not _is_child(identity.pid):
        return False
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


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def readable(fds: Iterable[int], timeout: float | None) -> set[int]:
    """Wait ``timeout`` seconds (None: without a limit) for a readable descriptor, and return all readable descriptors."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(None if timeout is None else max(0.0, timeout) * 1000)}


def wait_for_any(identities: Iterable[Identity], timeout: float, also: Iterable[int] = ()) -> bool:
    """Wait until one of the processes has ended, with all its threads, or a descriptor is readable.

    Args:
        identities: the processes.
        timeout: the longest wait, in seconds.
        also: descriptors.

    Returns:
        Whether one of the descriptors is readable.
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
    """Wait until all processes have ended; return those that still live after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    left = set(identities)
    while left:
        left = {identity for identity in left if is_alive(identity)}
        rest = deadline - time.monotonic()
        if not left or rest <= 0:
            break
        wait_for_any(left, rest)
    return left
