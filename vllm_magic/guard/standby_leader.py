"""The guard's connection to a standby: a leader that waits for a launch request (`engine/standby_child.py`)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

from vllm_magic.linux import memory

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import LaunchRequest

CHECK_INTERVAL = 10.0  # seconds between two checks of the machine's memory
LEAST_MEMORY = 3 * 2**30  # bytes of free memory; with less, a standby must end
SEND_LIMIT = 5  # seconds for a standby to read the request
ACCEPT_LIMIT = 300.0  # seconds for a standby to accept the request; its imports may be slow


class StandbyConnection:
    """The connection to a standby. It ends when `read_lines` returns "taken": the leader is a server then.

    Args:
        seconds: the longest time for which the standby waits for a request.

    Attributes:
        theirs: the standby's socket.
        is_requested: whether a request was sent.
    """

    def __init__(self, seconds: float) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.settimeout(SEND_LIMIT)
        self._until = time.monotonic() + seconds
        self._data = b""
        self.is_requested = False

    def fileno(self) -> int:
        """The descriptor that becomes readable when `read_lines` has lines."""
        return self._ours.fileno()

    def read_lines(self) -> list[str]:
        """Return the lines that the standby has sent; "unfit it has ended" after its end."""
        data = b""
        with contextlib.suppress(OSError):
            data = self._ours.recv(4096)
        *lines, self._data = (self._data + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines] if data else ["unfit it has ended"]

    def send_request(self, request: LaunchRequest) -> None:
        """Send the launch request; `read_lines` returns the answer.

        Raises:
            OSError: the standby is gone, or does not read.
        """
        self.is_requested = True
        self._until = time.monotonic() + ACCEPT_LIMIT
        fields = {"argv": request.argv, "env": request.env, "cwd": request.cwd}
        self._ours.sendall(json.dumps(fields).encode() + b"\n")

    def seconds_to_check(self) -> float:
        """Return the seconds until the next call of `should_end` is due."""
        return max(0.0, min(CHECK_INTERVAL, self._until - time.monotonic()))

    def should_end(self) -> bool:
        """Whether the standby must end: its time is over, or no request was sent and the machine is short of memory."""
        if time.monotonic() >= self._until or self.is_requested:
            return time.monotonic() >= self._until
        available = memory.available()
        return available is not None and available < LEAST_MEMORY

    def close(self) -> None:
        """Close the connection."""
        self._ours.close()
