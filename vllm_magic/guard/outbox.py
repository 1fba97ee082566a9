"""What a guard says over one connection: it waits for nobody, and what it has begun to say it says to the end.

The other side may be stopped, or busy for minutes. What it has not read fills the socket, and then a message goes out
in pieces, as room comes. A message takes the place of an older one of its kind that has not been begun. `KnownProcesses` comes
again and again and goes last, only while three quarters of the socket's buffer are free: the rest is for `Stopping` and
`Ended`, which the other side then finds there although the guard is gone.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import Ended, KnownProcesses, encode

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Message


class Outbox:
    """The sending side of one connection.

    Args:
        connection: where to; its other messages are the caller's to leave alone.
        is_cut: whether somebody else may have been ended while sending a message over it: that is closed first.
    """

    def __init__(self, connection: socket.socket, *, is_cut: bool = False) -> None:
        self._connection = connection
        self._begun = memoryview(b"\n" if is_cut else b"")  # an empty line means nothing
        self._waiting: dict[type[Message], Message] = {}

    @property
    def is_empty(self) -> bool:
        """Whether the connection has taken everything; also when nobody is at its other end any more."""
        return not self._begun and not self._waiting

    def say(self, message: Message) -> None:
        """Send this as soon as there is room."""
        if isinstance(message, Ended):  # nobody has to find these processes any more
            self._waiting.pop(KnownProcesses, None)
        self._waiting[type(message)] = message
        self.flush()

    def flush(self) -> None:
        """Send what there is room for now; to be called when the connection is writable, until all `is_empty`."""
        try:
            while self._begun or self._begin():
                sent = self._connection.send(self._begun, socket.MSG_DONTWAIT)
                self._begun = self._begun[sent:]
        except BlockingIOError:
            return
        except OSError:  # nobody is there any more
            self._begun = memoryview(b"")
            self._waiting.clear()

    def _begin(self) -> bool:
        """Take up the next message; False when none waits, or there is no room for it."""
        kind = next((kind for kind in self._waiting if kind is not KnownProcesses), None)
        if kind is None and KnownProcesses in self._waiting and self._has_much_room():
            kind = KnownProcesses
        if kind is None:
            return False
        self._begun = memoryview(encode(self._waiting[kind]))
        del self._waiting[kind]
        return True

    def _has_much_room(self) -> bool:
        """A Unix socket is writable while a quarter of its buffer is used at most (net/unix/af_unix.c)."""
        poller = select.poll()
        poller.register(self._connection, select.POLLOUT)
        return bool(poller.poll(0))
