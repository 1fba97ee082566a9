"""What the kernel has sent, in the order in which it came, whatever the socket cut it into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import Decoder, Message

if TYPE_CHECKING:
    import socket


class Inbox:
    """The receiving side of the guards' socket. A fork takes what is waiting with it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._decoder = Decoder()
        self._waiting: list[Message] = []

    def first(self, limit: float) -> Message | None:
        """The first message; None when it does not come within ``limit`` seconds, or the kernel is gone."""
        self._control.settimeout(limit)
        while not self._waiting:
            if not self._receive():
                return None
        self._control.settimeout(None)
        return self._waiting.pop(0)

    @property
    def waiting(self) -> bool:
        """Whether messages came together with an earlier one: the socket does not tell of these any more."""
        return bool(self._waiting)

    def read(self) -> list[Message] | None:
        """The next messages, waiting for them; None at the kernel's end."""
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
