"""The control socket in the private folder: how others than the kernel reach the guard.

The socket has mode 0600 in a folder of mode 0700, and whoever comes in is of this user (SO_PEERCRED, unix(7)).
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

NAME = "control"
LAST_WORDS_LIMIT = 5.0  # seconds that clients who do not read may delay the end of a guard whose work is done
MOST = 8  # clients at once; the others wait outside


class ControlConnection:
    """One connection from outside."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection = connection
        self.inbox = Inbox(connection)
        self.outbox = Outbox(connection)
        self.pid = pid

    def say(self, message: Message) -> None:
        """Tell the client; one that does not read is no reason to wait."""
        self.outbox.say(message)


class Door:
    """Listens, and keeps the clients.

    Args:
        folder: the private folder.

    Raises:
        OSError: the socket cannot be made there.
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
        """To be polled: readable when `hear` has something to do."""
        outside = [self._listener.fileno()] if len(self._clients) < MOST else []
        return [*outside, *self._clients]

    def hear(self, ready: Container[int]) -> list[tuple[ControlConnection, Message]]:
        """Let in who knocks, and give what was said; who hung up is gone."""
        heard: list[tuple[ControlConnection, Message]] = []
        for fd, client in list(self._clients.items()):
            if fd in ready:
                messages = client.inbox.read()
                if messages is None:
                    del self._clients[fd]
                    client.connection.close()
                heard += [(client, message) for message in messages or ()]
        # Last: whoever comes in now may get the number of a descriptor that was ready, and closed meanwhile.
        if self._listener.fileno() in ready:
            self._let_in()
        return heard

    def tell_all(self, message: Message) -> None:
        """Say it to each client."""
        for client in self._clients.values():
            client.say(message)

    def outboxes(self) -> dict[int, Outbox]:
        """What each client is told, by the descriptor: to be flushed when that is writable."""
        return {fd: client.outbox for fd, client in self._clients.items()}

    def hand_over(self, client: ControlConnection) -> None:
        """Forget the client, whose connection becomes the kernel's."""
        del self._clients[client.connection.fileno()]

    def see_to_last_words(self) -> None:
        """Wait until the clients have taken what they were told, `LAST_WORDS_LIMIT` seconds at most."""
        deadline = time.monotonic() + LAST_WORDS_LIMIT
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
        """Let nobody in any more; who is inside stays."""
        self._listener.close()

    def _let_in(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has hung up again, or no descriptor is free
            return
        pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            connection.close()
            return
        self._clients[connection.fileno()] = ControlConnection(connection, pid)


def _bind(listener: socket.socket, folder: str) -> None:
    # By way of the open folder: the path of a socket has at most 107 bytes, that of the folder may have more.
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{NAME}")
    finally:
        os.umask(mask)
        os.close(directory)
