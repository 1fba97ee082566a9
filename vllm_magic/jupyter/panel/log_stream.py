"""The log of a server as messages for the views, while the log grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_magic.server.server import run_of

if TYPE_CHECKING:
    from vllm_magic.engine.startup.log import Follower
    from vllm_magic.server.server import Server

MOST_LINES = 300  # lines in one message; of more new lines, the oldest are skipped


class LogStream:
    """Reads the log of one server. Only the controller's thread uses it.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._follower: Follower | None = None
        self._first = True  # whether the next message is the first one

    def whole(self) -> dict[str, Any]:
        """Return the first message, with the last lines of the log."""
        self._follower = None
        self._first = True
        return self.more() or self._message([], 0)

    def more(self) -> dict[str, Any] | None:
        """Return the message with the new lines; None if there are none."""
        path = self.server.log_path
        if self._follower is None:
            self._follower = run_of(self.server).follower()
        if self._follower is None or path is None:
            return None
        self._follower.path = path  # the log file is moved when the server ends
        lines = self._follower.new_lines()
        return self._message(lines[-MOST_LINES:], max(0, len(lines) - MOST_LINES)) if lines else None

    def _message(self, lines: list[str], skipped: int) -> dict[str, Any]:
        first, self._first = self._first, False
        return {
            "kind": "log",
            "name": self.server.name,
            "first": first,
            "skipped": 0 if first else skipped,
            "lines": lines,
        }
