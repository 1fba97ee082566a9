"""The text of a model as HTML for a notebook.

A front end trusts the output of a cell that the user ran: JupyterLab would run a script in Markdown output. So this
module renders the Markdown of a model to harmless HTML: HTML in the Markdown stays text, a link leads to the web or to a
mail address and nowhere else, and an image becomes a link, since loading the image would send its server whatever the
model put into the URL.

The text cannot block the kernel either: a text that takes long to render (20,000 brackets that are never closed), or
becomes far longer (a long address that is referred to again and again), is shown unchanged.
"""

from __future__ import annotations

import re
import time
from functools import cache
from html import escape
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.rules_block import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

LONGEST_RENDERED = 2**17  # characters of a text that is rendered; about 30,000 tokens
RENDER_LIMIT = 1.0  # seconds of processor time; the longest prose needs a third of it
MOST_CELLS = 10_000  # cells of a table: each row has as many cells as the second line
LONGEST_HTML = 2**20  # characters of HTML, as `_length` estimates them
_DEADLINE = "deadline"
_SECOND_LINE = re.compile(r"[>|:\s-]*")
_TARGET = re.compile(r"(https?|mailto):", re.IGNORECASE)
# The lengths are limited, so that many openings that are never closed take no time.
_TEX = re.compile(
    r"\$\$.{1,2000}?\$\$|\$(?! )[^$\n]{1,500}(?<! )\$(?!\d)|\\\(.{1,500}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL
)


def html(text: str) -> str:
    """Return Markdown (CommonMark, tables, strikethrough) or the unchanged text as HTML; TeX is left to the front end."""
    if len(text) <= LONGEST_RENDERED:
        try:
            return _rendered(text)
        except Exception:  # noqa: BLE001, S110 - too much, or a fault of the renderer: the text is shown unchanged
            pass
    return f"<pre><code>{escape(text)}</code></pre>"


def _rendered(text: str) -> str:
    renderer = _renderer()
    # This thread's processor time: a busy machine does not change how an answer is shown.
    env = {_DEADLINE: time.thread_time() + RENDER_LIMIT}
    tokens = renderer.parse(text, env)
    if _length(tokens) > LONGEST_HTML:
        raise _TooMuchError
    return str(renderer.renderer.render(tokens, renderer.options, env))


class _TooMuchError(Exception):
    """Rendering takes too long, or its result becomes too long."""


@cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("js-default", {"html": False}).disable("image")
    renderer.validateLink = lambda url: bool(_TARGET.match(url))  # type: ignore[method-assign]
    renderer.inline.ruler.before("escape", "tex", _tex)
    # The deadline is checked before all other rules, at each position in the text.
    renderer.inline.ruler.before("text", _DEADLINE, _check_deadline)
    inside = ["paragraph", "reference", "blockquote", "list"]  # checked at each line of these blocks, too
    renderer.block.ruler.before("table", _DEADLINE, _check_deadline, {"alt": inside})
    renderer.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    return renderer


def _check_deadline(state: StateInline | StateBlock, *_: object) -> bool:
    if time.thread_time() > state.env[_DEADLINE]:
        raise _TooMuchError
    return False


def _table(state: StateBlock, begin: int, end: int, silent: bool) -> bool:  # noqa: FBT001 - as the renderer calls it
    if not silent and _is_large_table(state, begin, end):
        return False
    return table(state, begin, end, silent)


def _is_large_table(state: StateBlock, begin: int, end: int) -> bool:
    """Whether a table that begins here would have too many cells: each line has as many cells as the second line."""
    if begin + 1 >= end:
        return False
    second = state.src[state.bMarks[begin + 1] : state.eMarks[begin + 1]]
    if not _SECOND_LINE.fullmatch(second):
        return False
    most = MOST_CELLS // (second.count("|") + 1)
    return begin + most < end and not any(state.isEmpty(line) for line in range(begin, begin + most))


def _length(tokens: Sequence[Token]) -> int:
    """Return a rough number of characters of the HTML; a tag counts as 20 characters."""
    return sum(
        20
        + len(token.content)
        + sum(len(str(value)) for value in token.attrs.values())
        + _length(token.children or ())
        for token in tokens
    )


def _tex(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - as the renderer calls it
    """Keep a TeX formula as text: no underscore in it begins emphasis, and no backslash in it is an escape."""
    formula = _TEX.match(state.src, state.pos)
    if formula is None:
        return False
    if not silent:
        state.pending += formula[0]
    state.pos = formula.end()
    return True
