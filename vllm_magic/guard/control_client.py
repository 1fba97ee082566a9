"""Connect to the guards of another kernel's server through the control socket in the server's private folder."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from vllm_magic.guard import control_socket
from vllm_magic.guard.protocol import Attach, Decoder, Stop, encode
from vllm_magic.linux import disk, forks

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_magic.guard.protocol import Message

ANSWER_LIMIT = 5.0  # seconds for a guard to answer; a guard that does not answer in this time hangs


def connect(folder: Path) -> socket.socket:
    """Return a connection to the guard of the server with this private folder.

    Raises:
        OSError: no guard listens on the control socket, or the disk of the folder does not answer.
    """
    connection = forks.above_standard_streams(socket.socket(socket.AF_UNIX))
    forks.keep_out(connection)
    try:
        disk.call(folder, os.stat, folder)  # raises an error if the disk does not answer
        # Through the open folder, as in `control_socket`: the path itself may be too long for a socket.
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.settimeout(ANSWER_LIMIT)
            connection.connect(f"/proc/self/fd/{directory}/{control_socket.SOCKET_NAME}")
            connection.settimeout(None)
        finally:
            os.close(directory)
    except OSError:
        connection.close()
        raise
    return connection


def answers(folder: Path) -> bool:
    """Whether the guard of the server with this private folder answers; True also if it accepts no connection any more.

    The guard gets a request that it always refuses: to attach a server with a spec that no server has.
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
        except OSError:  # the guard has just ended
            return True
    return True


class ControlClient:
    """A connection from a process that is not the server's kernel. For one thread.

    Args:
        folder: the server's private folder.

    Raises:
        OSError: no guard listens on the control socket.
    """

    def __init__(self, folder: Path) -> None:
        self._decoder = Decoder()
        self._socket = connect(folder)

    def stop(self, grace: float, patience: float) -> None:
        """Ask for the release, and return at once. Arguments as in `Stop`.

        Raises:
            OSError: the guard has just ended.
        """
        self._socket.sendall(encode(Stop(grace, patience)))

    def receive(self, limit: float) -> list[Message] | None:
        """Wait for the next messages of the guard; return None if the guard has ended.

        Args:
            limit: seconds to wait.

        Raises:
            TimeoutError: the guard sent nothing in that time.
        """
        self._socket.settimeout(limit)
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        return self._decoder.feed(data) if data else None

    def close(self) -> None:
        """Close the connection. A release that was asked for goes on."""
        self._socket.close()
