"""The line that tells how far a start is, updated in place. Only ever used from the thread that runs the cell."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING

from IPython.display import DisplayHandle, display

if TYPE_CHECKING:
    from vllm_magic.server import Server

WIDTH = 78  # characters that a line in a terminal may take


class ProgressLine:
    """Shows "name: stage · seconds" while a server starts.

    Args:
        notebook: whether a front end is there that can update an output; otherwise it is a terminal or a file.
    """

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._handle: DisplayHandle | None = None
        self._shown = ""
        self._stage = ""

    def report(self, server: Server) -> None:
        """Show where the server is now."""
        progress = server.progress
        stage = progress.stage.value
        counted = f" {progress.counted[0]}/{progress.counted[1]}" if progress.counted else ""
        text = f"{server.name}: {stage}{counted} · {server.seconds:.0f} s"
        if self._notebook:
            self._show_in_notebook(text)
        elif sys.stdout.isatty():
            sys.stdout.write(f"\r{text[:WIDTH].ljust(WIDTH)}")
            sys.stdout.flush()
        elif stage != self._stage:
            sys.stdout.write(f"{server.name}: {stage}\n")
        self._stage, self._shown = stage, text

    def finish(self, text: str) -> None:
        """Replace the line by what came of it; "" leaves nothing."""
        if self._notebook:
            if self._handle is not None or text:
                self._show_in_notebook(text)
            return
        if sys.stdout.isatty() and self._shown:
            sys.stdout.write("\r" + " " * WIDTH + "\r")
        if text:
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _show_in_notebook(self, text: str) -> None:
        if text == self._shown:
            return
        data = {"text/plain": text, "text/html": f"<div>{escape(text)}</div>"}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)  # type: ignore[no-untyped-call]
