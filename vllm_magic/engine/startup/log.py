"""Reading a server's log: its end, and what is new in it. The log may hold anything, and any amount of it."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING

from vllm_magic.linux import files
from vllm_magic.masking import mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MOST_AT_ONCE = 2**20  # bytes; a reader that is further behind skips to the end
FARTHEST = 2**26  # bytes from the end; so far back goes who finds nothing but our own looks
LONGEST_LINE = 2000  # characters that anyone wants to see of one line

# Colours and other escape sequences (ECMA-48, ECMA-35), control characters but the tab, and what ends a line or
# turns its direction in Unicode (its annexes 14 and 9).
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])|"
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_LINE_END = re.compile(rb"\r\n|\n|\r")
# What uvicorn says of our own looks, where vLLM cannot be told to leave it out.
_LOOK = re.compile(
    rb"(?:\([^)]*\) )?INFO: +127\.0\.0\.1:\d+ - \"GET /(?:health|metrics) HTTP/1\.[01]\" 200(?: OK)?"
)


def tail(path: Path, count: int, secrets: Iterable[str] = ()) -> list[str]:
    """The last ``count`` lines, oldest first; [] where there is no log.

    Args:
        path: the log.
        count: of lines; those that show nothing do not count, nor do looks at ``/health`` and ``/metrics`` from here.
        secrets: what must not be shown, besides what looks like a key.
    """
    secrets = tuple(secrets)
    size = MOST_AT_ONCE
    while True:
        try:
            with open(path, "rb", opener=files.unblocked) as file:
                begin = max(0, file.seek(0, os.SEEK_END) - size)
                file.seek(begin)
                first, *others = _LINE_END.split(file.read(size))
        except OSError:
            return []
        read = others if begin > 0 and others else [first, *others]  # the first line is the rest of one
        telling = _without_looks(read)
        lines = _last_shown(telling, count, secrets)
        if len(lines) >= count or begin == 0 or len(telling) == len(read) or size >= FARTHEST:
            return lines
        size *= 4


def clean(line: bytes, secrets: Iterable[str] = ()) -> str:
    """One line as text that is safe to show in a terminal (it is not escaped for HTML), its keys masked."""
    # Of a line that is cut here more is read than is shown, so that no key is cut before it is seen to be one.
    text = _CONTROL.sub("", line[: LONGEST_LINE * 8].decode("utf-8", "replace"))
    return mask(text, secrets)[:LONGEST_LINE].rstrip()


def split_lines(data: bytes, secrets: Iterable[str] = ()) -> tuple[list[str], bytes]:
    """The complete lines, safe to show, and the rest behind them, which is cut where it is no line of anyone's."""
    *lines, rest = _LINE_END.split(data)
    return _shown(_without_looks(lines), secrets), b"" if len(rest) > MOST_AT_ONCE else rest


def printable(text: str) -> str:
    """Text of any number of lines without what a terminal would obey."""
    return "\n".join(_CONTROL.sub("", line) for line in text.split("\n"))


class Follower:
    """Gives the lines that were added to a log since the last look. For one thread.

    Args:
        path: of the log.
        secrets: what must not be shown, besides what looks like a key.

    Attributes:
        path: of the log; may be set to where it was moved.
    """

    def __init__(self, path: Path, secrets: Iterable[str] = ()) -> None:
        self.path = path
        self._secrets = tuple(secrets)
        self._at = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Complete lines only, ended by a newline or a carriage return (progress bars use the latter)."""
        try:
            with open(self.path, "rb", opener=files.unblocked) as file:
                size = file.seek(0, os.SEEK_END)
                if not 0 <= size - self._at <= MOST_AT_ONCE:  # it was emptied, or grew fast
                    self._at, self._rest = max(0, size - MOST_AT_ONCE), b""
                file.seek(self._at)
                data = file.read(size - self._at)
        except OSError:
            return []
        self._at += len(data)
        lines, self._rest = split_lines(self._rest + data, self._secrets)
        return lines


def _without_looks(lines: Iterable[bytes]) -> list[bytes]:
    return [line for line in lines if not _LOOK.fullmatch(line)]


def _last_shown(lines: Sequence[bytes], count: int, secrets: Iterable[str]) -> list[str]:
    """The last ``count`` of those that show something; no other ones are cleaned."""
    shown = (text for line in reversed(lines) if (text := clean(line, secrets)))
    return [*islice(shown, max(0, count))][::-1]


def _shown(lines: Iterable[bytes], secrets: Iterable[str]) -> list[str]:
    return [text for line in lines if (text := clean(line, secrets))]
