"""The servers that a panel lists: the living ones, and the last ones that ended, so that their results can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.server.server import ServerState

if TYPE_CHECKING:
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server
    from vllm_magic.server.status import ServerStatus

MOST_ENDED = 5  # ended servers in the list


class ServerList:
    """The list of servers. Only the controller's thread uses it.

    Args:
        manager: the manager of the kernel.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._removed: set[Server] = set()

    def servers(self) -> list[Server]:
        """Return the servers in the order of their starts, so that a server keeps its place when it ends."""
        known = {**self._manager.past(), **self._manager.servers()}.values()
        self._removed &= {*known}
        status = {server: server.status for server in known}
        by_start = sorted(known, key=lambda server: status[server].times.get(ServerState.STARTING, 0.0))
        old = [server for server in by_start if is_removable(status[server])][:-MOST_ENDED]
        return [server for server in by_start if server not in self._removed and server not in old]

    def remove(self, server: Server) -> None:
        """Remove an ended server from the list of this panel; the manager still knows the server."""
        if is_removable(server.status):
            self._removed.add(server)


def is_removable(status: ServerStatus) -> bool:
    """Whether nothing of the server lives; a server that may hold memory stays in the list."""
    return status.state.over and not status.is_left
