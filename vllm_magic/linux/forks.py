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
import os
import subprocess
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds that a fork waits for starts. A start takes milliseconds; a fork must not hang where a disk hangs.
PATIENCE = 5.0


class HasDescriptor(Protocol):
    """A socket or a file: has a descriptor, which is -1 (or a ValueError) once it is closed."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


_gate = threading.Condition()  # a start holds it for an instant, a fork until it is done
_starts = 0  # starts under way
_ours: weakref.WeakSet[HasDescriptor] = weakref.WeakSet()


def spawn(words: Sequence[Any], **options: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen`, whose descriptors do not get into a child that another thread forks meanwhile."""
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
