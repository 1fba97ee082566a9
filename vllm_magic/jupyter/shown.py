"""An answer on the screen while it comes: Markdown that is updated in place in a notebook, plain text in a terminal.

What a model says may hold anything. A front end sanitises the Markdown that it renders; what goes to a terminal loses
its control characters here. Only ever used from the thread that runs the cell.
"""

from __future__ import annotations

import re
import sys
import time
from html import escape
from typing import TYPE_CHECKING, Any

from IPython.display import DisplayHandle, display

from vllm_magic.engine.generate import Kind
from vllm_magic.engine.log import printable

if TYPE_CHECKING:
    from vllm_magic.engine.generate import Answer, Piece

EVERY = 0.1  # seconds between two updates in a notebook
_REFUSES = "The model refuses: "


class NotebookAnswer:
    """Two outputs: the answer, updated in place, and at its end the line below it.

    Args:
        as_json: show it as JSON rather than as Markdown.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._said: dict[Kind, str] = dict.fromkeys(Kind, "")
        self._handle: DisplayHandle | None = None
        self._updated = 0.0

    def add(self, piece: Piece) -> None:
        """Show it, unless that was done a moment ago."""
        self._said[piece.kind] += piece.text
        if time.monotonic() - self._updated >= EVERY:
            self._show(thinking=piece.kind is Kind.REASONING)

    def finish(self, line: str) -> None:
        """Show all of it, and the line below."""
        if any(self._said.values()):
            self._show(thinking=False)
        display({"text/plain": line, "text/html": f"<small>{escape(line)}</small>"}, raw=True)  # type: ignore[no-untyped-call]

    def _show(self, *, thinking: bool) -> None:
        data = {"text/plain": self._plain(), "text/markdown": self._markdown(thinking=thinking)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)  # type: ignore[no-untyped-call]
        self._updated = time.monotonic()

    def _markdown(self, *, thinking: bool) -> str:
        text = self._said[Kind.TEXT]
        if self._as_json and text:
            text = _fenced(text)
        return _joined(self._reasoning(thinking=thinking), _refusal(self._said[Kind.REFUSAL]), text)

    def _reasoning(self, *, thinking: bool) -> str:
        """Folded once the answer begins; quoted, so that a code block in it that is not closed ends with it."""
        reasoning = self._said[Kind.REASONING]
        if not reasoning:
            return ""
        opening = (
            "<details open><summary>thinking</summary>" if thinking else "<details><summary>thought</summary>"
        )
        return f"{opening}\n\n{_quoted(escape(reasoning, quote=False))}\n\n</details>"

    def _plain(self) -> str:
        reasoning = self._said[Kind.REASONING]
        quoted = _quoted(reasoning) if reasoning else ""
        return printable(_joined(quoted, _refusal(self._said[Kind.REFUSAL]), self._said[Kind.TEXT]))


class TerminalAnswer:
    """Text, written as it comes."""

    def __init__(self) -> None:
        self._kind: Kind | None = None

    def add(self, piece: Piece) -> None:
        """Write it."""
        if piece.kind is not self._kind:
            heads = {Kind.REASONING: "(thinking) ", Kind.TEXT: "", Kind.REFUSAL: _REFUSES}
            sys.stdout.write(("\n\n" if self._kind else "") + heads[piece.kind])
            self._kind = piece.kind
        sys.stdout.write(printable(piece.text))
        sys.stdout.flush()

    def finish(self, line: str) -> None:
        """Write the line below it."""
        sys.stdout.write(f"\n({line})\n" if self._kind else f"({line})\n")
        sys.stdout.flush()


def line(answer: Answer, note: str = "") -> str:
    """What stands below an answer: how long it is, and how fast it came."""
    parts: list[Any] = [note]
    if answer.completion_tokens is not None:
        parts.append(f"{answer.prompt_tokens} tokens in, {answer.completion_tokens} out")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    if answer.first_token is not None:
        parts.append(f"the first after {answer.first_token:.2f} s")
    if answer.finish_reason == "length":
        parts.append("cut at the most tokens allowed")
    return " · ".join(filter(None, parts)) or "no answer"


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _refusal(text: str) -> str:
    return text and _REFUSES + text


def _quoted(text: str) -> str:
    return "\n".join(f"> {one}" for one in text.split("\n"))


def _fenced(text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"
