"""Children of this process that others fork (`multiprocessing.Pool`), while this package starts programs in threads.

Such a child has a copy of every descriptor that is open then, for as long as it lives, and a pipe or a socket is at its
end only when the last copy is closed. So a program is not started while somebody forks, nor the other way round
(`spawn`): `subprocess` waits for the end of a pipe that it makes in between. And what is this process's alone and stays
open for longer is taken from the child (`keep_out`).

What C code forks behind Python's back is not known here. So no end of a process is told by the end of a pipe alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = (
    5.0  # seconds that a fork waits for a start, which takes milliseconds; it must not hang where a disk does
)


class HasDescriptor(Protocol):
    """A socket, a file: what tells its descriptor, and -1 (or a ValueError) once it is closed."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


_gate = threading.Condition()  # held for an instant by a start, and by a fork until it is done
_starts = 0  # under way
_ours: weakref.WeakSet[HasDescriptor] = weakref.WeakSet()


def spawn(words: Sequence[Any], **options: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen`, of which nothing gets into a child that somebody else forks meanwhile."""
    global _starts  # noqa: PLW0603 - as a fork asks for it
    with _gate:
        _starts += 1
    try:
        return subprocess.Popen(words, **options)
    finally:
        with _gate:
            _starts -= 1
            _gate.notify_all()


def keep_out(one: HasDescriptor) -> None:
    """Have no forked child share this descriptor, for as long as it is open; there it leads nowhere."""
    _ours.add(one)


def _before() -> None:
    """Keep starts out until the fork is done, once those under way are."""
    if _gate.acquire(timeout=PATIENCE):
        _gate.wait_for(lambda: not _starts, PATIENCE)


def _in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # it was not to be had
        _gate.release()


def _in_child() -> None:
    global _gate, _starts  # noqa: PLW0603 - the threads that started something, or have the gate, are not here
    _gate = threading.Condition()
    _starts = 0
    with contextlib.suppress(OSError):  # no descriptor is free: then the copies stay
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for one in list(_ours):
            with contextlib.suppress(OSError, ValueError):
                if (fd := one.fileno()) >= 0:
                    os.dup2(
                        nowhere, fd, inheritable=False
                    )  # not closed: its number would be given to another
        os.close(nowhere)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
