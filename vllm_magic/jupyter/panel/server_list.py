"""The servers that a panel lists: the living ones, and the last ones that ended, so that their results can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.server.server import ServerState

if TYPE_CHECKING:
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server
    from vllm_magic.server.status import ServerStatus

ENDED = 5  # ended servers in the list, at most


class ServerList:
    """The list of servers. Only the controller's thread uses it.

    Args:
        manager: the kernel's manager.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._cleared: set[Server] = set()

    def servers(self) -> list[Server]:
        """Return the servers in the order of their starts, so that a server keeps its place when it ends."""
        known = {**self._manager.past(), **self._manager.servers()}.values()
        self._cleared &= {*known}
        status = {one: one.status for one in known}
        everyone = sorted(known, key=lambda one: status[one].times.get(ServerState.STARTING, 0.0))
        old = [one for one in everyone if may_go(status[one])][:-ENDED]
        return [one for one in everyone if one not in self._cleared and one not in old]

    def clear(self, server: Server) -> None:
        """Remove an ended server from the list of this panel; the manager still knows the server."""
        if may_go(server.status):
            self._cleared.add(server)


def may_go(status: ServerStatus) -> bool:
    """Whether nothing of the server lives; a server that may hold memory stays in the list."""
    return status.state.over and not status.is_left
