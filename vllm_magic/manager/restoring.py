"""Bring back the servers that a switch has put to sleep or stopped, after its own server has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.errors import StartTimeout, VllmMagicError
from vllm_magic.server.server import ServerState, run_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server


class Restoration:
    """Wakes up servers that sleep, and starts stopped servers again, one after the other.

    Args:
        manager: the manager of the servers.
        wait: whether to wait until a server that was started again is ready.
        timeout: seconds to wait for each such server, which goes on to start after that; None for no limit.
        report: called with the server, in this thread, repeatedly during the wait.
    """

    def __init__(
        self,
        manager: Manager,
        *,
        wait: bool,
        timeout: float | None = None,
        report: Callable[[Server], None] | None = None,
    ) -> None:
        self._manager = manager
        self._waits = wait
        self._timeout = timeout
        self._report = report

    def run(self, servers: Sequence[Server]) -> list[str]:
        """Bring the servers back.

        A KeyboardInterrupt ends the wait for a start, and for all further starts; the starts go on. If it comes during a call
        that wakes a server up or begins its start, the servers from this one on are left alone.

        Args:
            servers: servers that were put to sleep or stopped, or whose sleep or stop was requested and interrupted.

        Returns:
            A sentence for each server: whether it came back, and if not, why. No sentence for a server that did not go.
        """
        sentences: list[str] = []
        for position, server in enumerate(servers):
            try:
                sentences.append(self._restore(server))
            except VllmMagicError as error:
                sentences.append(f"{server.name} did not come back: {error}")
            except KeyboardInterrupt:
                sentences += left_alone(servers[position:])
                break
        return [sentence for sentence in sentences if sentence]

    def _restore(self, server: Server) -> str:
        """Bring one server back, and return the sentence about it. Errors as for `Server.wake` and `Manager.start`."""
        if server.state.runs:
            if not _sleeps(server):
                return ""
            server.wake()
            return f"{server.name} is awake again."
        start = self._manager.start(server.spec, wait=False)
        if start.reused:
            return ""
        if self._waits and self._wait(start.server):
            return f"{server.name} was started again, and is ready at {start.server.url}."
        return f"{server.name} is starting again: %vllm shows the progress."

    def _wait(self, server: Server) -> bool:
        """Wait for a server, and return whether it is ready. Errors as for `Server.wait`, but for `StartTimeout`."""
        try:
            server.wait(self._timeout, self._report)
        except StartTimeout:
            return False
        except KeyboardInterrupt:
            self._waits = False
            return False
        return True


def left_alone(servers: Sequence[Server]) -> list[str]:
    """Return a sentence for each of these servers that sleeps or was stopped: how the user brings it back."""
    sentences = []
    for server in servers:
        if server.state.over or server.state is ServerState.STOPPING:
            sentences.append(f"{server.name} was stopped: %vllm restart {server.name} starts it again.")
        elif server.asleep:
            sentences.append(f"{server.name} sleeps: %vllm wake {server.name} wakes it up.")
    return sentences


def _sleeps(server: Server) -> bool:
    return run_of(server).sleep_mode.is_asleep() or bool(server.asleep)
