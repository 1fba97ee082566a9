"""The names of a kernel's servers: which server has a name now, and which server had it last."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vllm_magic.errors import ServerNotFound
from vllm_magic.recovery import kept_servers
from vllm_magic.server.server import ServerState, run_of
from vllm_magic.server.status import idle_release

if TYPE_CHECKING:
    from vllm_magic.server.server import Server

REMEMBERED = 20  # ended servers, whose logs can still be shown by name


class Registry:
    """The servers of one kernel by name. Safe to use from any thread.

    Its lock guards the tables, and is taken before the lock of a lifecycle; nothing blocks while it is held. It can be taken
    again by the same thread, because a signal handler of the program may interrupt a call and make another one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._servers: dict[str, Server] = {}
        self._past: dict[str, Server] = {}
        self._failures: list[str] = []  # the unreported failures of servers that moved to the past

    def named(self, name: str) -> Server | None:
        """Return the server that has the name, in any state; None if there is none."""
        with self._lock:
            return self._servers.get(name)

    def enter(self, server: Server, instead_of: Server | None) -> bool:
        """Give a server its name.

        Args:
            server: the server.
            instead_of: the server that had the name until now; None if there was none.

        Returns:
            Whether the server has the name now; False if another thread was faster.
        """
        with self._lock:
            if self._servers.get(server.name) is not instead_of:
                return False
            if before := instead_of or self._past.get(server.name):
                run_of(before).successor = run_of(server)
            if instead_of:
                self._move_to_past(instead_of)
            self._servers[server.name] = server
            return True

    def forget(self, server: Server) -> None:
        """Move a server to the past, unless it runs, a process of it is left, or its release may still be proved."""
        with self._lock:
            if run_of(server).is_settled:
                self._move_to_past(server)

    def all(self) -> list[Server]:
        """Return all servers that have a name, in any state. This takes no lock."""
        return list(self._servers.values())

    def servers(self) -> dict[str, Server]:
        """Return the servers by name: those that start, run or stop, and failed ones until they are stopped or started again."""
        with self._lock:
            for server in list(self._servers.values()):
                if run_of(server).lifecycle.now.state is ServerState.RELEASED:
                    self._move_to_past(server)
            return dict(self._servers)

    def past(self) -> dict[str, Server]:
        """Return the last `REMEMBERED` servers that are over, by name."""
        with self._lock:
            return dict(self._past)

    def get(self, name: str | None = None) -> Server:
        """Return the server of this name; for None the only server.

        Raises:
            ServerNotFound: there is no such server, or more than one.
        """
        servers = self.servers()
        if name is None and len(servers) == 1:
            return next(iter(servers.values()))
        if name is not None and name in servers:
            return servers[name]
        before = self.past().get(name or "")
        ended = idle_release(before.spec, before.release) if before else ""
        reason = f" {name} was {ended}." if ended else ""
        raise ServerNotFound(f"{_missing(name, list(servers))}{reason}{kept_servers.attach_hint(name)}")

    def get_even_past(self, name: str | None = None) -> Server:
        """Return the same as `get`, or an ended server, whose log still exists.

        Raises:
            ServerNotFound: there is no such server, and there was none.
        """
        servers, past = self.servers(), self.past()
        if name is None and not servers and past:
            return list(past.values())[-1]
        if name is not None and name not in servers and name in past:
            return past[name]
        return self.get(name)

    def unreported_failures(self) -> list[str]:
        """Return a line for each failure that was not reported yet; each failure once."""
        with self._lock:
            failures, self._failures = self._failures, []
            servers = list(self._servers.values())
        return failures + [line for server in servers if (line := run_of(server).unreported_failure())]

    def idle_releases(self) -> list[str]:
        """Return a line for each past server that was released because it was idle."""
        servers = self.servers()
        past = [server for name, server in self.past().items() if name not in servers]
        ends = [(server.name, idle_release(server.spec, server.release)) for server in past]
        return [f"{name} was {end}." for name, end in ends if end]

    def _move_to_past(self, server: Server) -> None:
        """Move an ended server to the past. The caller holds the lock."""
        if self._servers.get(server.name) is not server:
            return
        self._servers.pop(server.name, None)
        # Another server of this name may replace this one in the past, so its failure is stored.
        if failure := run_of(server).unreported_failure():
            self._failures.append(failure)
        self._past.pop(server.name, None)
        self._past[server.name] = server
        while len(self._past) > REMEMBERED:
            self._past.pop([*self._past][0], None)  # noqa: RUF015 - a signal handler may change it meanwhile


def _missing(name: str | None, there: list[str]) -> str:
    """Return the message for a name that no server has, or for no name if there is not exactly one server."""
    if not there:
        wanted = f"No server is called {name}: none runs" if name else "No server runs"
        return f"{wanted}. Start one with %vllm start MODEL."
    names = ", ".join(there)
    if name is None:
        return f"Which one? There are {names}."
    return f"No server is called {name}. These are there: {names}."
