"""The lines of a log as Python wrote them: without what logging puts before each, and the frames told apart.

A frame quotes its source, and in that of a ``raise`` stands the message without its values. So a message is looked
for between the frames only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER = "Traceback (most recent call last):"
DEEPEST = 3  # frames that are shown of a traceback, each with its source
LONGEST_TRACEBACK = 400  # lines
LONGEST_MESSAGE = 4  # lines of an exception's message that are shown before the one that tells
LONGEST_SHOWN = 300  # characters of a line
# What is searched takes time: of longer lines, and of all lines where there is more in all, only the beginning counts.
LONGEST_READ = 2000  # characters of a line
MOST_READ = 2**20  # characters of all lines
SHORTEST_READ = 200  # characters of a line that are searched however many lines there are

_PROCESS = r"(?P<process>\([^)]*\) )?"
# What vLLM (vllm/logger.py) and uvicorn put before what is no failure.
_HARMLESS = re.compile(_PROCESS + r"(?:DEBUG|INFO|WARNING)(?:: | \d\d-\d\d )")
_PREFIX = re.compile(_PROCESS + r"(?:(?:ERROR|CRITICAL) \d\d-\d\d [^\[]*\[(?P<source>[^\]]*)\] ?)?")
_FILE = re.compile(r'  File "(?P<path>[^"]*)"')
_LIBRARY = re.compile(r"-packages/(?!vllm/)|/lib\d*/python[\d.]+/(?!(?:site|dist)-packages/)|^<")


class Said(NamedTuple):
    """One line.

    Attributes:
        process: who wrote it, as vLLM puts it before each line; "" where it does not.
        source: the file and line that logged it; "" for what was not logged, but printed.
        text: the line behind that.
        frame: whether it belongs to a frame of a traceback.
    """

    process: str
    source: str
    text: str
    frame: bool


def read(lines: Sequence[str]) -> list[Said]:
    """The lines that may tell of a failure: errors, and whatever was not logged with a level."""
    said: list[Said] = []
    inside: set[str] = set()  # the processes whose last line belongs to a frame
    longest = LONGEST_READ
    if sum(min(len(line), longest) for line in lines) > MOST_READ:
        longest = max(MOST_READ // len(lines), SHORTEST_READ)
    for whole in lines:
        line = whole[:longest]
        match = _PREFIX.match(line)
        if match is None or _HARMLESS.match(line):
            continue
        process, text = match["process"] or "", line[match.end() :]
        frame = bool(_FILE.match(text)) or (process in inside and text.startswith(("    ", "  [Previous")))
        (inside.add if frame else inside.discard)(process)
        said.append(Said(process, match["source"] or "", text, frame))
    return said


def is_raised(said: Sequence[Said], number: int) -> bool:
    """Whether the line is of the message at the end of a traceback."""
    return bool(_above(said, number))


def telling(said: Sequence[Said], first: int, last: int) -> tuple[str, ...]:
    """What a person wants to see of a failure: the deepest frames of vLLM's code or the user's, and the message.

    Args:
        said: the log.
        first: the first line of the message that tells.
        last: and the last.
    """
    message = [one.text for one in said[first : last + 1] if one.process == said[first].process]
    above = _above(said, first)
    frames = list(_frames([one.text for one in above if one.frame]))
    ours = [frame for frame in frames if not _is_library(frame)]
    begun = [one.text for one in above if not one.frame]
    shown = [*(line for frame in ours[-DEEPEST:] for line in frame), *begun, *message]
    return tuple(brief(line) for line in shown)


def brief(text: str) -> str:
    """The text, cut where it is too long to be read."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _above(said: Sequence[Said], first: int) -> list[Said]:
    """The traceback that ends in this line, as far as it stands above it; [] where there is none."""
    found: list[Said] = []
    message = 0
    for one in reversed(said[max(0, first - LONGEST_TRACEBACK) : first]):
        if one.process != said[first].process:  # processes write side by side
            continue
        if one.text.startswith(HEADER):
            return found[::-1]
        message += not one.frame
        if message > LONGEST_MESSAGE:
            break
        found.append(one)
    return []


def _frames(lines: Sequence[str]) -> Iterator[list[str]]:
    """Each frame: where it is, and its source without what is underlined below it."""
    starts = [number for number, line in enumerate(lines) if _FILE.match(line)]
    for start in starts:
        yield [line for line in lines[start : start + 2] if line == lines[start] or not _FILE.match(line)]


def _is_library(frame: Sequence[str]) -> bool:
    match = _FILE.match(frame[0])
    return match is not None and bool(_LIBRARY.search(match["path"]))
