"""The log of the server that the panel shows, as the log grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_magic.server.server import run_of

if TYPE_CHECKING:
    from vllm_magic.engine.startup.log import Follower
    from vllm_magic.server.server import Server

MOST = 300  # lines in one message; where more lines have come, the oldest of them are skipped


class LogStream:
    """Reads the log of one server. Only the controller's thread uses it.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._follower: Follower | None = None
        self._new = True

    def whole(self) -> dict[str, Any]:
        """Return the message with the end of the log, for a view that has no line of it."""
        self._follower = None
        self._new = True
        return self.more() or self._message([], 0)

    def more(self) -> dict[str, Any] | None:
        """Return the message with the new lines; None where there are none."""
        path = self.server.log_path
        if self._follower is None:
            self._follower = run_of(self.server).follower()
        if self._follower is None or path is None:
            return None
        self._follower.path = path  # the log file is moved when the server ends
        lines = self._follower.new_lines()
        return self._message(lines[-MOST:], max(0, len(lines) - MOST)) if lines else None

    def _message(self, lines: list[str], skipped: int) -> dict[str, Any]:
        fresh, self._new = self._new, False
        return {
            "kind": "log",
            "name": self.server.name,
            "fresh": fresh,
            "skipped": 0 if fresh else skipped,
            "lines": lines,
        }
