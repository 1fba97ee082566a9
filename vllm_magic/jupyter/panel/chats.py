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
    """For one thread.

    Args:
        manager: the kernel's.
        more: called in the thread of a turn whenever there is more of it to show.
    """

    def __init__(self, manager: Manager, more: Callable[[Chat], None]) -> None:
        self._manager = manager
        self._more = more
        self._chats: dict[Server, Chat] = {}

    def of(self, name: str) -> Chat:
        """The chat with the server of this name, begun if there is none; those with forgotten servers are dropped.

        Raises:
            ServerNotFound: there is and was none of this name.
        """
        server = self._manager.get_even_past(name)
        if server not in self._chats:
            known = {*self._manager.past().values(), *self._manager.servers().values()}
            self._chats = {one: chat for one, chat in self._chats.items() if one in known}
            self._chats[server] = Chat(server, self._more)
        return self._chats[server]

    def is_current(self, chat: Chat) -> bool:
        """Whether it is still the chat with its server."""
        return self._chats.get(chat.server) is chat

    def hush(self, server: Server) -> None:
        """End the answer that is coming from this server, if one is."""
        if server in self._chats:
            self._chats[server].hush()

    def hush_all(self) -> None:
        """End every answer that is coming."""
        for server in self._chats:
            self.hush(server)

    def forget(self, name: str) -> Chat:
        """A new chat with the server of this name, in place of the one there is. Raises what `of` raises."""
        old = self.of(name)
        old.hush()
        del self._chats[old.server]
        return self.of(name)


def message(chat: Chat, at: int = 0) -> dict[str, Any]:
    """The message with the turns from this one on."""
    return {
        "kind": "chat",
        "name": chat.server.name,
        "at": at,
        "turns": [asdict(turn) for turn in chat.turns[at:]],
    }
