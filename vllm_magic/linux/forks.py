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
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Seconds that a fork waits for starts, and a start for forks. Both take milliseconds. The limit is for a disk that hangs, and
# for two threads that would wait for each other because of a signal handler.
START_LIMIT = 5.0
STREAMS = 3  # descriptors 0, 1 and 2 are standard input, output and error


class HasDescriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int:
        """The descriptor; -1, or a ValueError, after it was closed."""
        ...


_gate = threading.Condition()  # a start holds the gate for a moment, a fork holds it until the fork is done
_starts: set[object] = set()  # one object for each start under way
_ours: weakref.WeakSet[HasDescriptor] = weakref.WeakSet()
_locks: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def spawn(command: Sequence[str | Path | int], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program like `subprocess.Popen`, so that a child that another thread forks meanwhile gets none of its pipes.

    Args:
        command: the command line. A number is a descriptor: the program inherits the descriptor, and gets its number as this
            argument. Of a descriptor 0, 1 or 2, the program inherits a copy, since its standard streams take these numbers.
        **options: as for `subprocess.Popen`.

    Raises:
        OSError: the program cannot be run, or no process or descriptor is free.
    """
    copies: list[int] = []
    try:
        passed = {fd: fd if fd >= STREAMS else _copy(fd, copies) for fd in command if isinstance(fd, int)}
        arguments = [str(passed[word]) if isinstance(word, int) else word for word in command]
        return _spawn(arguments, pass_fds=tuple(passed.values()), **options)
    finally:
        for fd in copies:
            os.close(fd)


def _copy(fd: int, copies: list[int]) -> int:
    copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, STREAMS))
    return copies[-1]


def above_standard_streams(connection: socket.socket) -> socket.socket:
    """Return the connection with a descriptor of 3 or more: 0, 1 and 2 would be used as standard streams.

    Raises:
        OSError: no descriptor is free.
    """
    if connection.fileno() >= STREAMS:
        return connection
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, STREAMS))


def _spawn(words: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
    start = object()
    with _entered():
        _starts.add(start)
    try:
        return subprocess.Popen(words, **options)
    finally:
        _starts.discard(start)
        with _entered() as gate:
            if gate is not None:
                gate.notify_all()


@contextlib.contextmanager
def _entered() -> Iterator[threading.Condition | None]:
    """Hold the gate, or go on without it after `START_LIMIT` seconds. Yields the gate if it is held, else None."""
    gate = _gate  # a forked child has another one
    entered = gate.acquire(timeout=START_LIMIT)
    try:
        yield gate if entered else None
    finally:
        if entered:
            gate.release()


class ForkLock:
    """A lock for a ``with`` statement that is free in a forked child: there, the thread that held it does not exist."""

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Make the lock free, whoever holds it."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def keep_out(file: HasDescriptor) -> None:
    """Replace this descriptor by /dev/null in every child that is forked while the descriptor is open."""
    _ours.add(file)


def _before() -> None:
    """Wait for the starts under way, then block new ones until the fork is done."""
    if _gate.acquire(timeout=START_LIMIT):
        _gate.wait_for(lambda: not _starts, START_LIMIT)


def _in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # `_before` did not get the gate in time
        _gate.release()


def _in_child() -> None:
    global _gate  # noqa: PLW0603 - the threads that use it are not in the child
    _gate = threading.Condition()
    _starts.clear()
    for lock in list(_locks):
        lock.renew()
    with contextlib.suppress(OSError):  # no descriptor is free: then the child keeps its copies
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for file in list(_ours):
            with contextlib.suppress(OSError, ValueError):
                if (fd := file.fileno()) >= 0:
                    # Closing the descriptor would let another file get its number.
                    os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
