"""Split each line of a log into the prefix of logging and the text, and find the lines that belong to frames of tracebacks.

A frame quotes its source code. The source of a ``raise`` contains the message without its values, so messages are
searched outside the frames only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER = "Traceback (most recent call last):"
DEEPEST = 3  # frames of a traceback that are shown, each with its source
LONGEST_TRACEBACK = 400  # lines
LONGEST_MESSAGE = 4  # lines of an exception's message that are shown before the telling line
MOST_OF_MESSAGE = 20  # lines of a message, after its first line, that are examined for its end
LONGEST_SHOWN = 300  # characters of a line that are shown
# Limits for the search, which takes time. Of a longer line only the beginning is searched; if all lines together have
# more than `MOST_READ` characters, each line is cut to its share.
LONGEST_READ = 2000  # characters of a line
MOST_READ = 2**20  # characters of all lines
SHORTEST_READ = 200  # characters of a line that are searched in any case

_NAMED = r"\([^()]{0,100}\bpid=\d[^()]{0,200}\) "
_PROCESS = rf"(?:{_NAMED}(?={_NAMED}))?(?P<process>{_NAMED})?"  # vLLM 0.11 to 0.16 writes two such prefixes for a worker
# The prefixes of vLLM (vllm/logger.py) and uvicorn for lines that tell of no failure. One warning does, see `hints.not_loaded`.
# What vllm/transformers_utils/repo_utils.py logs as "Error retrieving" is tried again, or raised if vLLM cannot do without it.
_HARMLESS = re.compile(
    _PROCESS + r"(?:(?:DEBUG|INFO|WARNING)(?:: | \d\d-\d\d )(?!.{0,100}\] Failed to import from vllm\.)|"
    r"ERROR \d\d-\d\d [^\[]{0,20}\[[^\]]{0,100}\] Error retrieving )"
)
_PREFIX = re.compile(_PROCESS + r"(?:(?:WARNING|ERROR|CRITICAL) \d\d-\d\d [^\[]*\[(?P<source>[^\]]*)\] ?)?")
_FILE = re.compile(r'  File "(?P<path>[^"]*)"')
_NEXT = re.compile(r"\s*$|Traceback |The above exception |During handling of ")  # what follows a message
_FRAME = re.compile(r'  File "(?P<path>[^"]*)", line \d+, in (?P<function>[\w<>.]+)')
_LIBRARY = re.compile(r"-packages/(?!vllm/)|/lib\d*/python[\d.]+/(?!(?:site|dist)-packages/)|^<")


class LogLine(NamedTuple):
    """One line.

    Attributes:
        process: the process that wrote the line, as vLLM names it in the prefix; "" if the prefix names none.
        source: the file and line number of the log call; "" for a line that was printed, not logged.
        text: the line without its prefix.
        frame: whether the line belongs to a frame of a traceback.
    """

    process: str
    source: str
    text: str
    frame: bool


class Frame(NamedTuple):
    """A frame of a traceback."""

    path: str
    function: str


def read(log: Sequence[str]) -> list[LogLine]:
    """Return the lines that may tell of a failure: errors, and lines without a level."""
    lines: list[LogLine] = []
    inside: set[str] = set()  # the processes whose last line belongs to a frame
    longest = LONGEST_READ
    if sum(min(len(line), longest) for line in log) > MOST_READ:
        longest = max(MOST_READ // len(log), SHORTEST_READ)
    for whole in log:
        line = whole[:longest]
        match = _PREFIX.match(line)
        if match is None or _HARMLESS.match(line):
            continue
        process, text = match["process"] or "", line[match.end() :]
        frame = (
            bool(_FILE.match(text))
            or (process in inside and text.startswith(("    ", "  [Previous")))
            or text.startswith(
                "    raise "
            )  # a frame whose first line is above the part of the log that was read
        )
        (inside.add if frame else inside.discard)(process)
        lines.append(LogLine(process, match["source"] or "", text, frame))
    return lines


def is_raised(lines: Sequence[LogLine], number: int) -> bool:
    """Whether the line belongs to the message at the end of a traceback."""
    return _above(lines, number) is not None


def telling_lines(lines: Sequence[LogLine], first: int, last: int) -> tuple[str, ...]:
    """Return the lines of a failure to show: the deepest frames of vLLM's or the user's code, and the message.

    Args:
        lines: the lines of the log.
        first: the number of the first line of the telling message.
        last: the number of its last line.
    """
    message = [line.text for line in lines[first : last + 1] if line.process == lines[first].process]
    above = _above(lines, first) or []
    frames = list(_frames([line.text for line in above if line.frame]))
    ours = [frame for frame in frames if not _is_library(frame)]
    message_above = [line.text for line in above if not line.frame]
    shown = [*(line for frame in ours[-DEEPEST:] for line in frame), *message_above, *message]
    return tuple(brief(line) for line in shown)


def frames_above(lines: Sequence[LogLine], number: int) -> list[Frame]:
    """Return the frames of the traceback above this line of its message, the deepest first."""
    above = (_above(lines, number) or [])[::-1]
    return [Frame(match["path"], match["function"]) for line in above if (match := _FRAME.match(line.text))]


def end_of_message(lines: Sequence[LogLine], first: int) -> int:
    """Return the number of the last line of the message that begins here.

    The message of a line that was printed, not logged, ends there: nothing shows whether the next line belongs to it.
    """
    last = first
    for number, line in enumerate(lines[first + 1 : first + MOST_OF_MESSAGE], first + 1):
        if line.process != lines[first].process:  # the lines of several processes are mixed
            continue
        if line.source != lines[first].source or not line.source or line.frame or _NEXT.match(line.text):
            break
        last = number
    return last


def brief(text: str) -> str:
    """Return the text, cut at `LONGEST_SHOWN` characters."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _above(lines: Sequence[LogLine], first: int) -> list[LogLine] | None:
    """Return the lines of the traceback above this line of its message; None if the line is not in such a message."""
    found: list[LogLine] = []
    message_lines = 0
    for line in reversed(lines[max(0, first - LONGEST_TRACEBACK) : first]):
        if line.process != lines[first].process:  # the lines of several processes are mixed
            continue
        if line.text.startswith(HEADER):
            return found[::-1]
        message_lines += not line.frame
        if message_lines > LONGEST_MESSAGE:
            break
        found.append(line)
    return None


def _frames(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines of each frame: its place and its source, without the markers that Python puts below the source."""
    starts = [number for number, line in enumerate(lines) if _FILE.match(line)]
    for start in starts:
        yield [line for line in lines[start : start + 2] if line == lines[start] or not _FILE.match(line)]


def _is_library(frame: Sequence[str]) -> bool:
    match = _FILE.match(frame[0])
    return match is not None and bool(_LIBRARY.search(match["path"]))
