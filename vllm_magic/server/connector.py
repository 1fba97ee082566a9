"""Connections to one server, and the check that the server itself listens there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.client.connection import Connection
from vllm_magic.engine.client.health import Api
from vllm_magic.errors import RequestFailed
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.linux import processes, sockets
from vllm_magic.server import members

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.endpoint import Endpoint
    from vllm_magic.lifecycle.lifecycle import Lifecycle


class Connector:
    """Connects to one server while it is ready. Safe to use from any thread.

    Args:
        name: the name of the server.
        endpoint: its address and key.
        lifecycle: the state of the server, with its leader.
        restarted: returns `ServerStatus.restarted`.
    """

    def __init__(
        self, name: str, endpoint: Endpoint, lifecycle: Lifecycle, restarted: Callable[[], str]
    ) -> None:
        self.endpoint = endpoint
        self._name = name
        self._restarted = restarted
        self._lifecycle = lifecycle
        self._listener = sockets.ListenerCheck(endpoint.address, endpoint.port)

    def connect(self) -> Connection:
        """Return a connection for requests.

        Raises:
            RequestFailed: the server is not ready.
        """
        self._check_ready()
        return Connection(self._name, self.endpoint, self._verify)

    def api(self, limit: float | None = None) -> Api:
        """Return a client for the routes of health, metrics and sleep mode; ``limit`` as in `Api`.

        Raises:
            RequestFailed: the server is not ready.
        """
        self._check_ready()
        return Api(self.endpoint, self._verify, limit)

    def _check_ready(self) -> None:
        now = self._lifecycle.now
        if now.state is ServerState.STARTING:
            stage = now.progress.stage.value
            raise RequestFailed(
                f"{self._name} is still starting: {stage}. Wait for it: server.wait(), or %vllm shows how far it is."
            )
        if now.state is not ServerState.READY:
            hint = self._restarted() or now.error or f"Start it again: %vllm restart {self._name}"
            raise RequestFailed(f"{self._name} takes no requests any more: it is {now.state.value}. {hint}")

    def _verify(self) -> None:
        """Check that this server itself listens at the address of its requests.

        The lifecycle has only what the guards have reported: they may be stopped, or report the server's end a moment later.
        In a forked copy of this process, the lifecycle does not change any more.

        Raises:
            RequestFailed: the server has ended, or another program listens there.
        """
        hint = f"%vllm shows its state, %vllm restart {self._name} starts it again"
        leader = self._lifecycle.now.leader
        if leader is None or not processes.is_alive(leader):
            raise RequestFailed(f"{self._name} has ended, so nothing was sent. {hint}.")
        if self._listener.belongs_to(lambda: members.pids(self._name, self._lifecycle)) is False:
            raise RequestFailed(
                f"{self._name} does not listen on port {self.endpoint.port} any more, so nothing was sent. {hint}."
            )
