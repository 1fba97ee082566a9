"""The chats of a panel, one for each server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic.jupyter.panel.chat import Chat

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server


class Chats:
    """The chats by server. Only the controller's thread uses them.

    Args:
        manager: the kernel's manager.
        more: called in a turn's thread whenever the turn has new text.
    """

    def __init__(self, manager: Manager, more: Callable[[Chat], None]) -> None:
        self._manager = manager
        self._more = more
        self._chats: dict[Server, Chat] = {}

    def of(self, name: str) -> Chat:
        """Return the chat with the server of this name, a new one if there is none; drop chats with forgotten servers.

        Raises:
            ServerNotFound: no server has or had this name.
        """
        server = self._manager.get_even_past(name)
        if server not in self._chats:
            known = {*self._manager.past().values(), *self._manager.servers().values()}
            self._chats = {one: chat for one, chat in self._chats.items() if one in known}
            self._chats[server] = Chat(server, self._more)
        return self._chats[server]

    def is_current(self, chat: Chat) -> bool:
        """Whether this is still the current chat with its server."""
        return self._chats.get(chat.server) is chat

    def abort(self, server: Server) -> None:
        """Abort the answer of this server that is under way, if there is one."""
        if server in self._chats:
            self._chats[server].abort()

    def abort_all(self) -> None:
        """Abort every answer that is under way."""
        for server in self._chats:
            self.abort(server)

    def forget(self, name: str) -> Chat:
        """Replace the chat with the server of this name by a new one, and return that. Raises the errors of `of`."""
        old = self.of(name)
        old.abort()
        del self._chats[old.server]
        return self.of(name)


def message(chat: Chat, at: int = 0) -> dict[str, Any]:
    """Return the message with the turns from index ``at`` on."""
    return {
        "kind": "chat",
        "name": chat.server.name,
        "at": at,
        "turns": [asdict(turn) for turn in chat.turns[at:]],
    }
