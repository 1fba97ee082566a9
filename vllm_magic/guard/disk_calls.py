"""The guards' calls of functions that use the disk of the private folder.

A guard must not wait for a disk that does not answer: then it could not end its server, and nothing could end the guard
itself (`linux.disk`). On a disk that may hang, a forked child calls the functions, and the guard stops waiting when
the time is over. The child is in the guard's session, so it is not taken for a process of the server, which has sessions of
its own. A child that waits when the guard ends goes on, and ends when the disk answers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from vllm_magic.linux import disk, pidfd, pidfd_calls

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 1.0  # seconds for a function
HANG = 3.0  # seconds after which the disk counts as silent: nothing waits for it then


class DiskCalls:
    """Calls functions one after the other. For one thread.

    Args:
        folder: the private folder.
    """

    def __init__(self, folder: str) -> None:
        self._may_hang = _may_hang(folder)
        self._child: int | None = None
        self._began = 0.0  # by `time.monotonic`

    def call(self, function: Callable[[], object], limit: float = LIMIT) -> bool:
        """Call a function, which handles its own errors, and return whether it has returned.

        Args:
            function: the function. On a disk that may hang, what it changes in memory is lost.
            limit: seconds to wait until the function before it, and then this function, have returned. With 0, nothing is
                waited for. This function is not called if the function before it has not returned.
        """
        if not self._may_hang:
            function()
            return True
        deadline = time.monotonic() + limit
        if not self._wait(deadline):
            return False
        try:
            pid = os.fork()
        except OSError:  # no process is free
            return False
        if pid == 0:
            _run(function)
        self._child, self._began = pid, time.monotonic()
        return self._wait(deadline)

    def _wait(self, deadline: float) -> bool:
        """Wait for the end of the child, if there is one; return whether it has ended."""
        if self._child is None:
            return True
        with contextlib.suppress(OSError):
            end = pidfd_calls.open_pid(self._child)
            rest = min(deadline, self._began + HANG) - time.monotonic()
            try:
                pidfd.readable([end], max(0.0, rest))
            finally:
                os.close(end)
        try:
            ended, _ = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:  # the guard has reaped it
            ended = self._child
        if ended:
            self._child = None
        return bool(ended)


def _may_hang(folder: str) -> bool:
    try:
        return disk.may_hang(folder)
    except OSError:  # /proc cannot be read
        return False


def _run(function: Callable[[], object]) -> None:
    """Call the function in the forked child, and end the child."""
    try:
        signal.set_wakeup_fd(-1)  # the pipe is the guard's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_connections()
        function()
    finally:
        os._exit(0)


def _close_connections() -> None:
    """Close all descriptors but files: otherwise the guard's connections would stay open after its end while this process waits.

    A file may be on the disk that does not answer, and closing it may wait.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the descriptor of the folder itself
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("/"):
                os.close(fd)
