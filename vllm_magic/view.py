"""The content that front ends show: as plain text in a terminal, as HTML or Markdown in a notebook.

Text from outside (model names, logs, process names) is escaped in HTML and in Markdown. No key is shown: `View` masks keys
in its content, wherever the content comes from.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import one_line
from vllm_magic.masking import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

_CELL = "text-align:left;padding:2px 12px 2px 0"
_PRE = "white-space:pre-wrap;margin:0;max-height:30em;overflow:auto"
# The characters that are markup inside a line of Markdown, besides those of HTML.
_MARKUP = re.compile(r"[\\`*_\[\]|$~]")
_BACKTICKS = re.compile(r"`{3,}")


@dataclass(frozen=True)
class View:
    """A headline, a table and lines below it; each may be empty.

    Attributes:
        headline: one line of text.
        columns: the header of the table.
        rows: the cells of the table, as text.
        lines: the lines of text below the table.
    """

    headline: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Mask keys, and put each cell on one line: the title of a process may contain anything."""
        object.__setattr__(self, "headline", mask(self.headline))
        object.__setattr__(self, "rows", tuple(tuple(map(one_line, row)) for row in self.rows))
        object.__setattr__(self, "lines", tuple(map(mask, self.lines)))

    def __repr__(self) -> str:
        above = (self.headline, *_aligned(self.columns, self.rows))
        return "\n".join((*filter(None, above), *self.lines))

    def _repr_html_(self) -> str:
        parts = [f"<div>{escape(self.headline)}</div>" if self.headline else ""]
        if self.rows:
            head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in self.columns)
            body = "".join(
                "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>"
                for row in self.rows
            )
            header = f"<thead><tr>{head}</tr></thead>" if any(self.columns) else ""
            parts.append(f"<table>{header}<tbody>{body}</tbody></table>")
        if self.lines:
            parts.append(f'<pre style="{_PRE}">{escape(chr(10).join(self.lines))}</pre>')
        return "".join(parts)

    def _repr_markdown_(self) -> str:
        parts = [f"**{_in_markdown(self.headline)}**"] if self.headline else []
        if self.rows:
            rule = ("---",) * len(self.columns)
            cells = [map(_in_markdown, row) for row in (self.columns, *self.rows)]
            lines = [f"| {' | '.join(row)} |" for row in cells]
            parts.append("\n".join((lines[0], f"|{'|'.join(rule)}|", *lines[1:])))
        if self.lines:
            text = "\n".join(self.lines)
            fence = max(("```", *(f"{backticks}`" for backticks in _BACKTICKS.findall(text))), key=len)
            parts.append(f"{fence}\n{text}\n{fence}")
        return "\n\n".join(parts)

    def _mime_(self) -> tuple[str, str]:
        return "text/html", self._repr_html_()


class Viewable(ABC):
    """A result that each front end shows as its view: Jupyter by ``_repr_html_`` and its like, marimo by ``_mime_``."""

    def __init_subclass__(cls) -> None:
        """Give the class a ``_repr_pretty_`` of its own: IPython prefers ``__repr__`` to an inherited ``_repr_pretty_``."""
        cls._repr_pretty_ = Viewable._repr_pretty_  # type: ignore[method-assign]

    @abstractmethod
    def view(self) -> View:
        """Return what front ends show."""

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    def _repr_markdown_(self) -> str:
        return self.view()._repr_markdown_()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002, FBT001 - as IPython calls it
        printer.text(repr(self.view()))

    def _mime_(self) -> tuple[str, str]:
        return self.view()._mime_()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in plain text; none where it has no rows. Columns without names get no header."""
    return _aligned(columns, [list(map(one_line, row)) for row in rows])


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are ready to be shown."""
    if not rows:
        return []
    shown = [columns, *rows] if any(columns) else rows
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def _in_markdown(text: str) -> str:
    """Return one line of text as Markdown that shows exactly this text, with ``&#N;`` in place of each character of markup."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", escape(text))
