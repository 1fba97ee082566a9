"""Keep this package's descriptors out of children that other code forks (`multiprocessing.Pool`).

A forked child has a copy of every open descriptor for as long as the child lives, and a reader of a pipe or a
socket sees its end only when the last copy is closed. While a thread starts a program, `subprocess` makes a
pipe and waits for its end. So no program is started while another thread forks, and no fork happens during a
start (`spawn`). Descriptors that stay open for longer and must not be shared are replaced in the child
(`keep_out`).

Python does not see forks by C code. So the end of a pipe alone never counts as the end of a process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Seconds that a fork waits for starts. A start takes milliseconds; a fork must not hang where a disk hangs.
PATIENCE = 5.0
STREAMS = 3  # descriptors 0, 1 and 2 are standard input, output and error


class HasDescriptor(Protocol):
    """A socket or a file: has a descriptor, which is -1 (or a ValueError) once it is closed."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


_gate = threading.Condition()  # a start holds it for an instant, a fork until it is done
_starts = 0  # starts under way
_ours: weakref.WeakSet[HasDescriptor] = weakref.WeakSet()


def spawn(words: Sequence[str | Path | int], **options: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen`, whose descriptors do not get into a child that another thread forks meanwhile.

    A number among the words is a descriptor that the child is to have; the child reads there which one it is. In a
    process that was started without standard streams it may be 0, 1 or 2, which in the child are its own streams: a
    copy with another number is passed then.

    Raises:
        OSError: the program cannot be run, or no process or descriptor is free.
    """
    copies: list[int] = []
    try:
        passed = {fd: fd if fd >= STREAMS else _copy(fd, copies) for fd in words if isinstance(fd, int)}
        said = [str(passed[word]) if isinstance(word, int) else word for word in words]
        return _spawn(said, pass_fds=tuple(passed.values()), **options)
    finally:
        for fd in copies:
            os.close(fd)


def _copy(fd: int, copies: list[int]) -> int:
    copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STREAMS))
    return copies[-1]


def beyond_streams(connection: socket.socket) -> socket.socket:
    """The connection with a descriptor that nobody takes for a standard stream, as a child or a library of C would.

    Raises:
        OSError: no descriptor is free.
    """
    if connection.fileno() >= STREAMS:
        return connection
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, STREAMS))


def _spawn(words: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
    global _starts  # noqa: PLW0603 - a fork waits for it to be 0
    with _gate:
        _starts += 1
    try:
        return subprocess.Popen(words, **options)
    finally:
        with _gate:
            _starts -= 1
            _gate.notify_all()


def keep_out(one: HasDescriptor) -> None:
    """Keep this descriptor out of forked children while it is open; in a child it leads to /dev/null."""
    _ours.add(one)


def _before() -> None:
    """Wait for the starts under way, then block new ones until the fork is done."""
    if _gate.acquire(timeout=PATIENCE):
        _gate.wait_for(lambda: not _starts, PATIENCE)


def _in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # `_before` did not get the gate in time
        _gate.release()


def _in_child() -> None:
    global _gate, _starts  # noqa: PLW0603 - the threads that use them are not in the child
    _gate = threading.Condition()
    _starts = 0
    with contextlib.suppress(OSError):  # no descriptor is free: then the child keeps its copies
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for one in list(_ours):
            with contextlib.suppress(OSError, ValueError):
                if (fd := one.fileno()) >= 0:
                    # Closing the descriptor would let another file get its number.
                    os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
