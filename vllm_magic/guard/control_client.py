"""Reaching a guard from outside: by the control socket in the server's private folder."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from vllm_magic.guard import control_socket
from vllm_magic.guard.protocol import Attach, Decoder, Stop, encode
from vllm_magic.linux import forks

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_magic.guard.protocol import Message

ANSWER_LIMIT = 5.0  # seconds for a guard to answer; one that does not hangs


def connect(folder: Path) -> socket.socket:
    """A connection to the guard of the server with this private folder.

    Raises:
        OSError: nobody listens there.
    """
    connection = forks.beyond_streams(socket.socket(socket.AF_UNIX))
    forks.keep_out(connection)
    try:
        # By way of the open folder, as it was bound: the path itself may be too long.
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.settimeout(ANSWER_LIMIT)
            connection.connect(f"/proc/self/fd/{directory}/{control_socket.NAME}")
            connection.settimeout(None)
        finally:
            os.close(directory)
    except OSError:
        connection.close()
        raise
    return connection


def answers(folder: Path) -> bool:
    """Whether the guard of the server with this private folder answers; also True where it lets nobody in any more.

    It is asked for what it never gives, as far as it can tell: to be attached by somebody who wants another spec.
    """
    try:
        connection = connect(folder)
    except OSError:
        return True
    with connection:
        try:
            connection.settimeout(ANSWER_LIMIT)
            connection.sendall(encode(Attach({"none": ""})))
            connection.recv(1)
        except TimeoutError:
            return False
        except OSError:  # it has just ended
            return True
    return True


class ControlClient:
    """Somebody who is not the server's kernel. For one thread.

    Args:
        folder: the server's private folder.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, folder: Path) -> None:
        self._decoder = Decoder()
        self._socket = connect(folder)

    def stop(self, grace: float, patience: float) -> None:
        """Ask for the release, and return at once. Times in seconds.

        Raises:
            OSError: the guard has just ended.
        """
        self._socket.sendall(encode(Stop(grace, patience)))

    def receive(self, limit: float) -> list[Message] | None:
        """What the guard says next; None when it is gone.

        Args:
            limit: seconds to wait.

        Raises:
            TimeoutError: it said nothing in that time.
        """
        self._socket.settimeout(limit)
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        return self._decoder.feed(data) if data else None

    def close(self) -> None:
        """Hang up; what was asked for goes on."""
        self._socket.close()
