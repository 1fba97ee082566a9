"""A check that a server itself listens on its port, before anything is believed that an answer from there says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.client.exchange import NoAnswerError
from vllm_magic.linux import processes, sessions, sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.linux.processes import Identity


class OwnListener:
    """Safe to use from any thread. A look costs 0.1 ms once the server listens.

    Args:
        address: a literal IP address of this machine, on which the server listens.
        port: its TCP port.
        leader: returns the first process of the server; None before it runs.
    """

    def __init__(self, address: str, port: int, leader: Callable[[], Identity | None]) -> None:
        self._check = sockets.ListenerCheck(address, port)
        self._leader = leader

    def verify(self) -> None:
        """Return if the server listens there and nobody else does, or where Linux does not tell.

        Raises:
            NoAnswerError: another program listens there, or none.
        """
        if self._check.belongs_to(self._pids) is False:
            raise NoAnswerError("the server does not listen on its port")

    def _pids(self) -> list[int]:
        leader = self._leader()
        if leader is None:
            return []
        table = sessions.near([leader.pid])
        return [pid for pid in processes.server_members(table, leader) if pid in table]
