"""The messages that a guard sends over one connection, without ever waiting for the other side.

The other side may be stopped, or busy for minutes. When the socket is full, a message is sent in pieces, as room becomes
free. A new message replaces a waiting message of its kind, but not a message that is partly sent. `KnownProcesses` is sent
often, so it comes last, and only while three quarters of the socket's buffer are free. The rest of the buffer is kept for
`Stopping` and `Ended`: they stay in the buffer and can be read even after the guard has ended.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import Ended, KnownProcesses, encode

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Message


class Outbox:
    """The sending side of one connection. Nothing else may send over this connection.

    Args:
        connection: the connection.
        is_cut: whether another process may have been killed while it sent a message over this connection. A newline is
            then sent first, which ends that message.
    """

    def __init__(self, connection: socket.socket, *, is_cut: bool = False) -> None:
        self._connection = connection
        # The rest of the message that is being sent. To the other side, an empty line has no meaning.
        self._begun = memoryview(b"\n" if is_cut else b"")
        self._waiting: dict[type[Message], Message] = {}

    @property
    def is_empty(self) -> bool:
        """Whether all messages were passed to the socket; True also if the other side has closed the connection."""
        return not self._begun and not self._waiting

    def send(self, message: Message) -> None:
        """Send a message as soon as the socket has room for it."""
        if isinstance(message, Ended):  # the list of processes is obsolete then
            self._waiting.pop(KnownProcesses, None)
        self._waiting[type(message)] = message
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket has room for. Call this when the connection is writable, until `is_empty`."""
        try:
            while self._begun or self._begin():
                sent = self._connection.send(self._begun, socket.MSG_DONTWAIT)
                self._begun = self._begun[sent:]
        except BlockingIOError:
            return
        except OSError:  # the other side has closed the connection
            self._begun = memoryview(b"")
            self._waiting.clear()

    def _begin(self) -> bool:
        """Begin with the next message; return False if there is none, or no room for it."""
        kind = next((kind for kind in self._waiting if kind is not KnownProcesses), None)
        if kind is None and KnownProcesses in self._waiting and self._has_much_room():
            kind = KnownProcesses
        if kind is None:
            return False
        self._begun = memoryview(encode(self._waiting[kind]))
        del self._waiting[kind]
        return True

    def _has_much_room(self) -> bool:
        """Whether at least three quarters of the buffer are free: then a Unix socket is writable (net/unix/af_unix.c)."""
        poller = select.poll()
        poller.register(self._connection, select.POLLOUT)
        return bool(poller.poll(0))
