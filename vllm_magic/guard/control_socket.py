"""The control socket in the private folder: processes other than the kernel connect to the guard through it.

The socket has mode 0600 and lies in a folder of mode 0700. Only processes of this user are accepted (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from vllm_magic.guard.message_stream import Inbox
from vllm_magic.guard.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Container

    from vllm_magic.guard.protocol import Message

SOCKET_NAME = "control"
FLUSH_LIMIT = 5.0  # seconds that slow clients may delay the end of a guard
MOST_CLIENTS = 8  # clients at once; more clients wait for a place


class ControlConnection:
    """A connection of one client; ``pid`` is the client's pid."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.inbox = Inbox(connection)
        self.outbox = Outbox(connection)
        self.pid = pid

    def send(self, message: Message) -> None:
        """Send a message to the client. This never waits."""
        self.outbox.send(message)


class ControlSocket:
    """The listening socket, and the connections of its clients.

    Args:
        folder: the private folder.

    Raises:
        OSError: the socket cannot be made in the folder.
    """

    def __init__(self, folder: str) -> None:
        self._clients: dict[int, ControlConnection] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            _bind(self._listener, folder)
            self._listener.listen()
            self._listener.setblocking(False)
        except OSError:
            self._listener.close()
            raise

    def filenos(self) -> list[int]:
        """The descriptors to poll; `receive` takes those that are readable."""
        listener = [self._listener.fileno()] if len(self._clients) < MOST_CLIENTS else []
        return [*listener, *self._clients]

    def receive(self, ready: Container[int]) -> list[tuple[ControlConnection, Message]]:
        """Accept a new client, and return the messages of the clients. Clients that have disconnected are removed.

        Args:
            ready: the readable descriptors.
        """
        received: list[tuple[ControlConnection, Message]] = []
        for fd, client in list(self._clients.items()):
            if fd in ready:
                messages = client.inbox.read()
                if messages is None:
                    del self._clients[fd]
                    client.connection.close()
                received += [(client, message) for message in messages or ()]
        # This comes last: a new client may get the number of a ready descriptor that was closed above.
        if self._listener.fileno() in ready:
            self._accept()
        return received

    def send_all(self, message: Message) -> None:
        """Send a message to each client."""
        for client in self._clients.values():
            client.send(message)

    def outboxes(self) -> dict[int, Outbox]:
        """Return the outbox of each client, by descriptor. The caller flushes it when the descriptor is writable."""
        return {fd: client.outbox for fd, client in self._clients.items()}

    def detach(self, client: ControlConnection) -> None:
        """Remove a client whose connection becomes the connection to the kernel."""
        del self._clients[client.connection.fileno()]

    def flush_before_exit(self) -> None:
        """Wait until the clients have received all messages, at most `FLUSH_LIMIT` seconds."""
        deadline = time.monotonic() + FLUSH_LIMIT
        while unsent := {fd: box for fd, box in self.outboxes().items() if not box.is_empty}:
            poller = select.poll()
            for fd in unsent:
                poller.register(fd, select.POLLOUT)
            ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                return
            for fd, _ in ready:
                unsent[fd].flush()

    def close(self) -> None:
        """Accept no more clients. The clients that are connected stay."""
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the client has disconnected, or no descriptor is free
            return
        pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            connection.close()
            return
        self._clients[connection.fileno()] = ControlConnection(connection, pid)


def _bind(listener: socket.socket, folder: str) -> None:
    # The path goes through the open folder: the path of a socket has at most 107 bytes, and the folder's path may be longer.
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    finally:
        os.umask(mask)
        os.close(directory)
