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
        manager: the manager of the kernel.
        on_text: called in the thread of a turn whenever the turn has new text.
    """

    def __init__(self, manager: Manager, on_text: Callable[[Chat], None]) -> None:
        self._manager = manager
        self._on_text = on_text
        self._chats: dict[Server, Chat] = {}

    def of(self, name: str) -> Chat:
        """Return the chat with the server of this name; begin one if there is none.

        Chats with servers that the manager has forgotten are forgotten too.

        Raises:
            ServerNotFound: no server has or had this name.
        """
        server = self._manager.get_even_past(name)
        if server not in self._chats:
            known = {*self._manager.past().values(), *self._manager.servers().values()}
            self._chats = {owner: chat for owner, chat in self._chats.items() if owner in known}
            self._chats[server] = Chat(server, self._on_text)
        return self._chats[server]

    def is_current(self, chat: Chat) -> bool:
        """Whether this is the current chat with its server, not one that `renew` has replaced."""
        return self._chats.get(chat.server) is chat

    def abort(self, server: Server) -> None:
        """Abort the answer of this server, if one is under way."""
        if server in self._chats:
            self._chats[server].abort()

    def abort_all(self) -> None:
        """Abort every answer that is under way."""
        for server in self._chats:
            self.abort(server)

    def renew(self, name: str) -> Chat:
        """Replace the chat with the server of this name by a new chat, and return the new chat.

        Raises:
            ServerNotFound: no server has or had this name.
        """
        old = self.of(name)
        old.abort()
        del self._chats[old.server]
        return self.of(name)


def message(chat: Chat, first: int = 0) -> dict[str, Any]:
    """Return the message with the turns from index ``first`` on."""
    return {
        "kind": "chat",
        "name": chat.server.name,
        "first": first,
        "turns": [asdict(turn) for turn in chat.turns[first:]],
    }
