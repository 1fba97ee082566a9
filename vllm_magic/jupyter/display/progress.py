"""The line that shows the progress of a start, a download or a benchmark. Only the thread that runs the cell uses this module.

The line is text or a display, not a widget: it looks the same in every front end, works under nbclient and papermill, where
nobody answers a widget, and leaves only the result in the saved notebook.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from html import escape
from operator import itemgetter
from typing import TYPE_CHECKING

from vllm_magic.jupyter.display.mode import DisplayMode
from vllm_magic.jupyter.display.updated import UpdatedOutput
from vllm_magic.provisioning.base import StartKind
from vllm_magic.server.progress_text import line

if TYPE_CHECKING:
    from vllm_magic.server.server import Server

WIDTH = 78  # characters that a line in a terminal may take
BAR = 12  # characters of the bar in this line
LONGEST_STAGES = 3  # stages that the last line names
LINE_INTERVAL = 15.0  # seconds between two appended lines of the same stage


class Line(ABC):
    """The progress of a command, and at its end the result in one line."""

    @abstractmethod
    def show(self, text: str, share: float | None, stage: str = "") -> None:
        """Show this state of the progress.

        Args:
            text: the state, in one line.
            share: the share (0 to 1) of the work that is done; None if it is not known.
            stage: the name of the part of the work that is done now.
        """

    @abstractmethod
    def finish(self, text: str) -> None:
        """Show the result; "" for none."""


def new_line(mode: DisplayMode) -> Line:
    """Return a line for this mode."""
    lines: dict[DisplayMode, type[Line]] = {
        DisplayMode.UPDATE: UpdatedLine,
        DisplayMode.APPEND: AppendedLines,
        DisplayMode.FINAL: FinalLine,
        DisplayMode.TERMINAL: TerminalLine,
    }
    return lines[mode]()


class UpdatedLine(Line):
    """One output, which is updated in place, and at the end replaced by the result."""

    def __init__(self) -> None:
        self._output = UpdatedOutput()
        self._shown = ""

    def show(self, text: str, share: float | None, stage: str = "") -> None:  # noqa: ARG002
        """Show the text after a bar, unless the text is there already."""
        if text == self._shown:
            return
        self._shown = text
        bar = "" if share is None else f'<progress max="1" value="{share:.3f}"></progress> '
        self._output.show({"text/plain": text, "text/html": f"<div>{bar}{escape(text)}</div>"})

    def finish(self, text: str) -> None:
        """Replace the progress by the result."""
        if self._output.shown or text:
            self.show(text, None)


class FinalLine(UpdatedLine):
    """One output, which shows only the result."""

    def show(self, text: str, share: float | None, stage: str = "") -> None:
        """Show nothing yet."""

    def finish(self, text: str) -> None:
        """Show the result."""
        if text:
            super().show(text, None)


class AppendedLines(Line):
    """Text, to which a line is appended for each stage, and every `LINE_INTERVAL` seconds in a long stage."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._next_line = 0.0  # by `time.monotonic`

    def show(self, text: str, share: float | None, stage: str = "") -> None:  # noqa: ARG002
        """Append the text if it is of a new stage, or the last line is old."""
        if stage != self._stage or time.monotonic() >= self._next_line:
            self._stage = stage
            self._next_line = time.monotonic() + LINE_INTERVAL
            self.finish(text)

    def finish(self, text: str) -> None:
        """Append the result."""
        if text:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


class TerminalLine(Line):
    """A line of a terminal, which each later state overwrites."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str, share: float | None, stage: str = "") -> None:  # noqa: ARG002
        """Overwrite the line with a bar and the text."""
        line = text if share is None else f"{_bar(share)} {text}"
        sys.stdout.write(f"\r{line[:WIDTH].ljust(WIDTH)}")
        sys.stdout.flush()
        self._shown = True

    def finish(self, text: str) -> None:
        """Write the result in place of the progress."""
        if self._shown:
            sys.stdout.write("\r" + " " * WIDTH + "\r")
        if text:
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class ProgressLine:
    """Shows a bar and "name: stage · seconds" while a server starts.

    Args:
        mode: the way in which the line is shown.
    """

    def __init__(self, mode: DisplayMode) -> None:
        self._line = new_line(mode)

    def report(self, server: Server) -> None:
        """Show the progress of the server now."""
        now = server.status
        self._line.show(line(now), now.estimate.share, now.progress.stage.value)

    def finish(self, text: str) -> None:
        """Show the result; "" for none."""
        self._line.finish(text)


def ready(server: Server) -> str:
    """Return a line that says that the server is ready, after how many seconds, and which stages took longest."""
    now = server.status
    longest = sorted(now.stages.items(), key=itemgetter(1), reverse=True)[:LONGEST_STAGES]
    parts = ", ".join(f"{stage.value} {seconds:.1f} s" for stage, seconds in longest)
    spare = ", from a spare" if now.start_kind is StartKind.WARM else ""
    return f"{now.name} is ready after {now.ready_after:.1f} s{spare}{f' ({parts})' if parts else ''}."


def _bar(share: float) -> str:
    full = round(share * BAR)
    return "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * full + "\N{BOX DRAWINGS LIGHT TRIPLE DASH HORIZONTAL}" * (
        BAR - full
    )
