"""The guard's end of a spare: a leader that waits to be told what to serve (`engine/standby_child.py`)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

from vllm_magic.linux import memory

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Order

LOOK = 10.0  # seconds between two looks at the memory of the machine
LEAST = 3 * 2**30  # bytes; below that a spare is in the way of what is in use
SEND_LIMIT = 5  # seconds for a spare to read its order, which is mostly an environment
TAKE_LIMIT = 300.0  # seconds for it to take that; it may be importing, from a disk that is slow


class Waiting:
    """Until `heard` says "taken"; after that the leader is a server like any other.

    Args:
        seconds: for which it waits at most.
    """

    def __init__(self, seconds: float) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.settimeout(SEND_LIMIT)
        self._until = time.monotonic() + seconds
        self._data = b""
        self.is_ordered = False

    def fileno(self) -> int:
        """Readable when `heard` has something to say."""
        return self._ours.fileno()

    def heard(self) -> list[str]:
        """The lines that it said; after the last one that it has ended."""
        data = b""
        with contextlib.suppress(OSError):
            data = self._ours.recv(4096)
        *lines, self._data = (self._data + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines] if data else ["unfit it has ended"]

    def order(self, order: Order) -> None:
        """Tell it what to become; what it says to that is `heard`.

        Raises:
            OSError: it is gone, or does not read.
        """
        self.is_ordered = True
        self._until = time.monotonic() + TAKE_LIMIT
        words = {"argv": order.argv, "env": order.env, "cwd": order.cwd}
        self._ours.sendall(json.dumps(words).encode() + b"\n")

    def rest(self) -> float:
        """Seconds until the next look at whether it is to go."""
        return max(0.0, min(LOOK, self._until - time.monotonic()))

    def is_in_the_way(self) -> bool:
        """Whether its time is over, or memory is short while nobody wants it."""
        if time.monotonic() >= self._until or self.is_ordered:
            return time.monotonic() >= self._until
        available = memory.available()
        return available is not None and available < LEAST

    def close(self) -> None:
        """Let go of it."""
        self._ours.close()
