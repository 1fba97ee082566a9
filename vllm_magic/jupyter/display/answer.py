"""A streamed answer on the screen: Markdown in a notebook, plain text where text is only appended.

The text of a model may contain anything: no HTML in it reaches a notebook, and no control character in it reaches a
terminal. Only the thread that runs the cell uses this module.
"""

from __future__ import annotations

import sys
import time
from html import escape
from typing import TYPE_CHECKING

from IPython.display import display

from vllm_magic.engine.client.generate import PieceKind
from vllm_magic.engine.startup.log import printable
from vllm_magic.jupyter.display.mode import DisplayMode
from vllm_magic.jupyter.display.updated import UpdatedOutput

if TYPE_CHECKING:
    from vllm_magic.engine.client.generate import Piece

UPDATE_INTERVAL = 0.1  # seconds between two updates in a notebook, at least
# An update renders the whole answer. If it takes long, the pause after it is at least so many times as long.
PAUSE_FACTOR = 5
_REFUSES = "The model refuses: "


def new_answer(mode: DisplayMode, *, as_json: bool) -> NotebookAnswer | TextAnswer:
    """Return the object that shows an answer in this mode; ``as_json`` as for `NotebookAnswer`."""
    if mode in {DisplayMode.APPEND, DisplayMode.TERMINAL}:
        return TextAnswer()
    return NotebookAnswer(as_json=as_json, streamed=mode is DisplayMode.UPDATE)


class NotebookAnswer:
    """An answer in a notebook, as two outputs: the answer, and at its end the line below it.

    Args:
        as_json: whether the text is shown unchanged; otherwise it is shown as Markdown.
        streamed: whether the answer is shown while it comes, updated in place; otherwise it is shown at its end only.
    """

    def __init__(self, *, as_json: bool, streamed: bool) -> None:
        self._as_json = as_json
        self._streamed = streamed
        self._texts: dict[PieceKind, str] = dict.fromkeys(PieceKind, "")
        self._output = UpdatedOutput()
        self._next_update = 0.0  # by `time.monotonic`

    def add(self, piece: Piece) -> None:
        """Add a piece; update the output unless the last update was too recent."""
        self._texts[piece.kind] += piece.text
        if self._streamed and time.monotonic() >= self._next_update:
            self._show(thinking=piece.kind is PieceKind.REASONING)

    def finish(self, line: str) -> None:
        """Show the whole answer, and the line below it."""
        if any(self._texts.values()):
            self._show(thinking=False)
        display({"text/plain": line, "text/html": f"<small>{escape(line)}</small>"}, raw=True)  # type: ignore[no-untyped-call]

    def _show(self, *, thinking: bool) -> None:
        began = time.monotonic()
        self._output.show({"text/plain": self._plain(), "text/html": self._html(thinking=thinking)})
        now = time.monotonic()
        self._next_update = now + max(UPDATE_INTERVAL, PAUSE_FACTOR * (now - began))

    def _html(self, *, thinking: bool) -> str:
        from vllm_magic.jupyter.display import markdown

        text = self._texts[PieceKind.TEXT]
        shown = f"<pre><code>{escape(text)}</code></pre>" if self._as_json and text else markdown.html(text)
        refusal = markdown.html(_refusal(self._texts[PieceKind.REFUSAL]))
        return self._reasoning(thinking=thinking) + refusal + shown

    def _reasoning(self, *, thinking: bool) -> str:
        """Return the reasoning as HTML, folded once the answer begins."""
        from vllm_magic.jupyter.display import markdown

        reasoning = self._texts[PieceKind.REASONING]
        if not reasoning:
            return ""
        head = "<details open><summary>thinking" if thinking else "<details><summary>thought"
        return f"{head}</summary><blockquote>{markdown.html(reasoning)}</blockquote></details>"

    def _plain(self) -> str:
        reasoning = self._texts[PieceKind.REASONING]
        quoted = _quoted(reasoning) if reasoning else ""
        return printable(
            _joined(quoted, _refusal(self._texts[PieceKind.REFUSAL]), self._texts[PieceKind.TEXT])
        )


class TextAnswer:
    """An answer as text, written as it comes."""

    def __init__(self) -> None:
        self._kind: PieceKind | None = None

    def add(self, piece: Piece) -> None:
        """Write a piece."""
        if piece.kind is not self._kind:
            labels = {PieceKind.REASONING: "(thinking) ", PieceKind.TEXT: "", PieceKind.REFUSAL: _REFUSES}
            sys.stdout.write(("\n\n" if self._kind else "") + labels[piece.kind])
            self._kind = piece.kind
        sys.stdout.write(printable(piece.text))
        sys.stdout.flush()

    def finish(self, line: str) -> None:
        """Write the line below the answer."""
        sys.stdout.write(f"\n({line})\n" if self._kind else f"({line})\n")
        sys.stdout.flush()


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _refusal(text: str) -> str:
    return text and _REFUSES + text


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))
