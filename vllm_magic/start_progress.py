"""The progress of `vllm_magic.start` outside of IPython: in a cell of marimo, or as lines in a terminal.

In marimo a spinner stands in the output of the cell while it waits. A program gets a line on stderr for each stage, if
stderr is a terminal. In IPython ``%vllm start`` shows the progress.
"""

from __future__ import annotations

import contextlib
import sys
from html import escape
from typing import TYPE_CHECKING, Any

from vllm_magic.server import progress_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_magic.server.server import Server


@contextlib.contextmanager
def shown() -> Iterator[Callable[[Server], None] | None]:
    """Yield what shows the progress of a server, in the thread that waits for it; None where nothing can show it."""
    marimo, ipython = sys.modules.get("marimo"), sys.modules.get("IPython")
    with contextlib.ExitStack() as open_spinner:
        if marimo is not None and marimo.running_in_notebook():
            yield _Spinner(marimo.status.spinner, open_spinner).report
        elif ipython is not None and ipython.get_ipython() is not None:
            yield None
        elif sys.stderr is not None and sys.stderr.isatty():
            yield _Lines().report
        else:
            yield None


class _Spinner:
    """A spinner of marimo, from the first report on: a server that is ready already needs none.

    Args:
        make: ``mo.status.spinner``, whose texts are HTML.
        opened: closes the spinner.
    """

    def __init__(self, make: Callable[..., Any], opened: contextlib.ExitStack) -> None:
        self._make = make
        self._opened = opened
        self._spinner: Any = None

    def report(self, server: Server) -> None:
        """Show the stage of the start, and how long it takes."""
        now = server.status
        title = escape(f"{now.name}: {progress_text.stage_text(now.progress, now.estimate)}")
        subtitle = escape(progress_text.times(now))
        if self._spinner is None:
            self._spinner = self._opened.enter_context(self._make(title=title, subtitle=subtitle))
        else:
            self._spinner.update(title=title, subtitle=subtitle)


class _Lines:
    """A line on stderr for each stage."""

    def __init__(self) -> None:
        self._stage = ""

    def report(self, server: Server) -> None:
        """Write a line if the stage has changed."""
        now = server.status
        if now.progress.stage.value != self._stage:
            self._stage = now.progress.stage.value
            sys.stderr.write(f"{progress_text.line(now)}\n")
