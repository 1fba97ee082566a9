"""Whole messages from a stream socket, in the order in which they were sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import Decoder, Message

if TYPE_CHECKING:
    import socket


class Inbox:
    """The receiving side of a guard's connection. A fork copies the messages that are waiting.

    Args:
        control: the connection.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._decoder = Decoder()
        self._waiting: list[Message] = []

    def first(self, limit: float) -> Message | None:
        """Return the first message; None if it does not arrive within ``limit`` seconds, or the connection ends."""
        self._control.settimeout(limit)
        while not self._waiting:
            if not self._receive():
                return None
        self._control.settimeout(None)
        return self._waiting.pop(0)

    @property
    def waiting(self) -> bool:
        """Whether `read` has messages that were received already. The socket does not become readable because of them."""
        return bool(self._waiting)

    def read(self) -> list[Message] | None:
        """Wait for the next messages, and return them; None at the end of the connection."""
        if not self._waiting and not self._receive():
            return None
        messages, self._waiting = self._waiting, []
        return messages

    def _receive(self) -> bool:
        try:
            data = self._control.recv(65536)
        except OSError:
            return False
        self._waiting += self._decoder.feed(data)
        return bool(data)
