"""Check that the server itself listens on its port, since an answer from another program there must not be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.client.exchange import NoAnswerError
from vllm_magic.linux import sessions, sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.linux.processes import Identity


class OwnListener:
    """The listener on a server's port. Safe to use from any thread. A check takes 0.1 ms once the server listens.

    Args:
        address: a literal IP address of this machine, on which the server listens.
        port: its TCP port.
        leader: returns the leader of the server; None before it runs.
    """

    def __init__(self, address: str, port: int, leader: Callable[[], Identity | None]) -> None:
        self._check = sockets.ListenerCheck(address, port)
        self._leader = leader

    def verify(self) -> None:
        """Check that the server listens there and no other program does; do nothing if Linux does not tell.

        Raises:
            NoAnswerError: another program listens there, or no program does.
        """
        if self._check.belongs_to(self._pids) is False:
            raise NoAnswerError("the server does not listen on its port")

    def _pids(self) -> list[int]:
        leader = self._leader()
        return [process.identity.pid for process in sessions.server_members(leader)] if leader else []
