"""The line that shows the progress of a start, updated in place. Only the thread that runs the cell uses this module."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING

from IPython.display import DisplayHandle, display

from vllm_magic.provisioning.base import StartKind
from vllm_magic.sizes import gib
from vllm_magic.view import duration

if TYPE_CHECKING:
    from vllm_magic.engine.models.download import Download
    from vllm_magic.engine.startup.estimate import Estimate
    from vllm_magic.engine.startup.stages import Progress
    from vllm_magic.server.server import Server

WIDTH = 78  # characters that a line in a terminal may take
BAR = 12  # characters of the bar in this line
LONGEST_STAGES = 3  # stages that the last line names


class Line:
    """A line that is updated in place, and at the end replaced by the result.

    The line is a display that is updated, not a widget: it looks the same in JupyterLab, works under nbclient and
    papermill, where nobody answers a widget, and leaves only the result in the saved notebook.

    Args:
        notebook: whether a front end that can update an output shows it; otherwise a terminal or a file gets it.
    """

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._handle: DisplayHandle | None = None
        self._shown = ""

    def show(self, text: str, share: float | None) -> None:
        """Show this text, after a bar if a share (0 to 1) is given; write nothing to a file."""
        if self._notebook:
            self._show_in_notebook(text, share)
        elif sys.stdout.isatty():
            line = text if share is None else f"{_bar(share)} {text}"
            sys.stdout.write(f"\r{line[:WIDTH].ljust(WIDTH)}")
            sys.stdout.flush()
        self._shown = text

    def finish(self, text: str) -> None:
        """Replace the line by the result; "" leaves no text."""
        if self._notebook:
            if self._handle is not None or text:
                self._show_in_notebook(text, None)
            return
        if sys.stdout.isatty() and self._shown:
            sys.stdout.write("\r" + " " * WIDTH + "\r")
        if text:
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _show_in_notebook(self, text: str, share: float | None) -> None:
        if text == self._shown:
            return
        bar = "" if share is None else f'<progress max="1" value="{share:.3f}"></progress> '
        data = {"text/plain": text, "text/html": f"<div>{bar}{escape(text)}</div>"}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)  # type: ignore[no-untyped-call]


class ProgressLine(Line):
    """Shows a bar and "name: stage · seconds" while a server starts; writes a line for each stage to a file."""

    def __init__(self, *, notebook: bool) -> None:
        super().__init__(notebook=notebook)
        self._stage = ""

    def report(self, server: Server) -> None:
        """Show the progress of the server now."""
        now = server.status
        stage = now.progress.stage.value
        if stage != self._stage and not self._notebook and not sys.stdout.isatty():
            sys.stdout.write(f"{now.name}: {stage}\n")
        self._stage = stage
        done = stage_text(now.progress, now.estimate)
        self.show(
            f"{now.name}: {done} \N{MIDDLE DOT} {_times(now.seconds, now.estimate)}", now.estimate.share
        )


def stage_text(progress: Progress, estimate: Estimate) -> str:
    """Return the stage as text, with its count or download, and a note where it takes far longer than before."""
    counted = f" {progress.counted[0]}/{progress.counted[1]}" if progress.counted else ""
    late = "" if estimate.late is None else f", which took {duration(estimate.late)} before"
    what = progress.stage.value if progress.download is None else download(progress.download)
    return f"{what}{counted}{late}"


def ready(server: Server) -> str:
    """Return the line that the server is ready, after how long, and which stages took longest."""
    now = server.status
    longest = sorted(now.stages.items(), key=lambda one: -one[1])[:LONGEST_STAGES]
    parts = ", ".join(f"{stage.value} {seconds:.1f} s" for stage, seconds in longest)
    spare = ", from a spare" if now.start_kind is StartKind.WARM else ""
    return f"{now.name} is ready after {now.ready_after:.1f} s{spare}{f' ({parts})' if parts else ''}."


def download(seen: Download) -> str:
    """Return the progress of a download as text."""
    of = "" if seen.total is None else f" of {gib(seen.total)}"
    speed = "" if seen.speed is None else f", {seen.speed / 1e6:.0f} MB/s"
    return f"downloading {gib(seen.done)}{of}{speed}"


def _times(seconds: float, estimate: Estimate) -> str:
    left = "" if estimate.left is None else f", about {max(1.0, estimate.left):.0f} s left"
    return f"{seconds:.0f} s{left}"


def _bar(share: float) -> str:
    full = round(share * BAR)
    return "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * full + "\N{BOX DRAWINGS LIGHT TRIPLE DASH HORIZONTAL}" * (
        BAR - full
    )
