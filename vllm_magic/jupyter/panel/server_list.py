"""The servers that a panel lists: those that live, and the last that are over, for what they left to be seen again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.server.server import ServerState

if TYPE_CHECKING:
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server

ENDED = 5  # that are over


class ServerList:
    """For one thread.

    Args:
        manager: the kernel's.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._cleared: set[Server] = set()

    def servers(self) -> list[Server]:
        """In the order of their starts, so that one that ends stays in its place."""
        known = {**self._manager.past(), **self._manager.servers()}.values()
        self._cleared &= {*known}
        everyone = sorted(known, key=_began)
        old = [one for one in everyone if may_go(one)][:-ENDED]
        return [one for one in everyone if one not in self._cleared and one not in old]

    def clear(self, server: Server) -> None:
        """Take one that is over from the list of this panel; nothing else forgets it."""
        if may_go(server):
            self._cleared.add(server)


def may_go(server: Server) -> bool:
    """Whether nothing of it lives: what holds memory stays in sight."""
    return server.state.over and not server.is_left


def _began(server: Server) -> float:
    return server.times.get(ServerState.STARTING, 0.0)
