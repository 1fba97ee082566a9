"""Reading a server's log: its end, and what is new in it. The log may hold anything, and any amount of it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST_AT_ONCE = 2**20  # bytes; a reader that is further behind skips to the end
LONGEST_LINE = 2000  # characters that anyone wants to see of one line

# Colours and other escape sequences (ECMA-48), and control characters but the tab.
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]"
)
_LINE_END = re.compile(rb"\r\n|\n|\r")


def tail(path: Path, count: int) -> list[str]:
    """The last ``count`` lines, oldest first; [] where there is no log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_AT_ONCE))
            data = file.read(MOST_AT_ONCE)
    except OSError:
        return []
    lines = [clean(line) for line in _LINE_END.split(data) if line.strip()]
    return lines[-count:] if count > 0 else []


def clean(line: bytes) -> str:
    """One line as text that is safe to show in a terminal (it is not escaped for HTML)."""
    return _CONTROL.sub("", line[: LONGEST_LINE * 4].decode("utf-8", "replace"))[:LONGEST_LINE].rstrip()


class Follower:
    """Gives the lines that were added to a log since the last look. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Complete lines only, ended by a newline or a carriage return (progress bars use the latter)."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size - self._at > MOST_AT_ONCE:
                    self._at, self._rest = size - MOST_AT_ONCE, b""
                file.seek(self._at)
                data = file.read(MOST_AT_ONCE)
        except OSError:
            return []
        self._at += len(data)
        *lines, self._rest = _LINE_END.split(self._rest + data)
        if len(self._rest) > MOST_AT_ONCE:
            self._rest = b""
        return [clean(line) for line in lines if line.strip()]
