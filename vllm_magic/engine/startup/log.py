"""Read a server's log: its last lines, or its new lines. The log may be of any size and hold any bytes."""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING

from vllm_magic.linux import disk, files
from vllm_magic.masking import mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MOST_AT_ONCE = 2**20  # bytes; a reader that is further behind skips to the end
FARTHEST = 2**26  # bytes from the end, up to which `tail` searches if it finds only our own requests
LONGEST_LINE = 2000  # characters of one line that are shown

# Colours and other escape sequences (ECMA-48, ECMA-35), control characters except the tab, and Unicode's characters that
# end a line or change its direction (its annexes 14 and 9).
_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])|"
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_LINE_END = re.compile(rb"\r\n|\n|\r")
# vLLM 0.12 to 0.15 colour the prefix in files too (utils/system_utils.py).
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
# uvicorn's log line for our own requests, from a vLLM that has no flag to leave it out.
_LOOK = re.compile(
    rb"(?:\([^)]*\) )?INFO: +127\.0\.0\.1:\d+ - \"GET /(?:health|metrics) HTTP/1\.[01]\" 200(?: OK)?"
)


def tail(path: Path, count: int, secrets: Iterable[str] = ()) -> list[str]:
    """Return the last ``count`` lines, oldest first; [] if there is no log. If the disk does not answer, a line says so.

    Args:
        path: the log.
        count: the number of lines. Empty lines, and lines for requests of ``/health`` and ``/metrics`` from this
            machine, are left out and do not count.
        secrets: texts that must not be shown, besides everything that looks like a key.
    """
    try:
        return disk.call(path, _tail, path, count, tuple(secrets))
    except TimeoutError as error:
        return [f"vllm_magic: {error}"]
    except OSError:
        return []


def _tail(path: Path, count: int, secrets: tuple[str, ...]) -> list[str]:
    size = MOST_AT_ONCE
    while True:
        try:
            with open(path, "rb", opener=files.open_nonblocking) as file:
                begin = max(0, file.seek(0, os.SEEK_END) - size)
                file.seek(begin)
                first, *others = _LINE_END.split(file.read(size))
        except OSError:
            return []
        read = others if begin > 0 and others else [first, *others]  # the first line may lack its beginning
        telling = _without_looks(read)
        lines = _last_shown(telling, count, secrets)
        if len(lines) >= count or begin == 0 or len(telling) == len(read) or size >= FARTHEST:
            return lines
        size *= 4


def clean(line: bytes, secrets: Iterable[str] = ()) -> str:
    """Return one line as text that is safe in a terminal, with keys masked. The text is not escaped for HTML."""
    # More of the line is read than is shown: a key that is cut in two could not be recognised.
    text = _CONTROL.sub("", line[: LONGEST_LINE * 8].decode("utf-8", "replace"))
    return mask(text, secrets)[:LONGEST_LINE].rstrip()


def split_lines(data: bytes, secrets: Iterable[str] = ()) -> tuple[list[str], bytes]:
    """Return the complete lines, safe to show, and the unfinished line after them; b"" if that is too long for a line."""
    *lines, rest = _LINE_END.split(data)
    return _shown(_without_looks(lines), secrets), b"" if len(rest) > MOST_AT_ONCE else rest


def printable(text: str) -> str:
    """Return text of any number of lines without escape sequences and control characters."""
    return "\n".join(_CONTROL.sub("", line) for line in text.split("\n"))


class Follower:
    """Returns the lines that were added to a log since the last call. For one thread.

    Args:
        path: the path of the log.
        secrets: texts that must not be shown, besides everything that looks like a key.

    Attributes:
        path: the path of the log; it may be set to a new place.
    """

    def __init__(self, path: Path, secrets: Iterable[str] = ()) -> None:
        self.path = path
        self._secrets = tuple(secrets)
        self._at = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Return the new complete lines. A line ends with a newline, or a carriage return, as progress bars use it."""
        try:
            begin, data = disk.call(self.path, _read_after, self.path, self._at)
        except OSError:
            return []
        if begin != self._at:
            self._rest = b""
        self._at = begin + len(data)
        lines, self._rest = split_lines(self._rest + data, self._secrets)
        return lines


def _read_after(path: Path, at: int) -> tuple[int, bytes]:
    """Return the bytes after a position, and where they begin: later if the log was emptied, or grew fast."""
    with open(path, "rb", opener=files.open_nonblocking) as file:
        size = file.seek(0, os.SEEK_END)
        if not 0 <= size - at <= MOST_AT_ONCE:
            at = max(0, size - MOST_AT_ONCE)
        file.seek(at)
        return at, file.read(size - at)


def _without_looks(lines: Iterable[bytes]) -> list[bytes]:
    return [line for line in lines if not _LOOK.fullmatch(_COLOUR.sub(b"", line))]


def _last_shown(lines: Sequence[bytes], count: int, secrets: Iterable[str]) -> list[str]:
    """Return the last ``count`` lines that are not empty. Only as many lines as necessary are cleaned."""
    shown = (text for line in reversed(lines) if (text := clean(line, secrets)))
    return [*islice(shown, max(0, min(count, len(lines))))][::-1]


def _shown(lines: Iterable[bytes], secrets: Iterable[str]) -> list[str]:
    return [text for line in lines if (text := clean(line, secrets))]
