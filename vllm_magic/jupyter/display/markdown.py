"""What a model says, as HTML for a notebook.

A front end trusts what a cell that was run shows: JupyterLab would run a script in its Markdown. So the Markdown of a
model is rendered here, and can do nothing there: HTML in it stays text, a link leads to the web or to a mail address
and nowhere else, and an image is a link, since to load it would tell its server whatever the model put into its URL.

Nor can it hold the kernel up: what takes long to render (20,000 brackets that are never closed), or becomes far longer
(a long address that is referred to again and again), is shown as it stands.
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

LONGEST = 2**17  # characters; an answer of 30,000 tokens
LIMIT = 1.0  # seconds of the processor; a third of that renders the longest prose
MOST_CELLS = 10_000  # of a table: one character can stand for a whole row of them
LONGEST_HTML = 2**20  # characters, about
_DEADLINE = "deadline"
_SECOND_LINE = re.compile(r"[>|:\s-]*")
_TARGET = re.compile(r"(https?|mailto):", re.IGNORECASE)
# Up to a length, so that what is opened again and again and never closed takes no time.
_TEX = re.compile(
    r"\$\$.{1,2000}?\$\$|\$(?! )[^$\n]{1,500}(?<! )\$(?!\d)|\\\(.{1,500}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL
)


def html(text: str) -> str:
    """The HTML of this Markdown (CommonMark, tables and strikethrough), or of the text as it stands; TeX is left to the front end."""
    if len(text) <= LONGEST:
        try:
            return _rendered(text)
        except Exception:  # noqa: BLE001, S110 - too much, or a fault of the renderer: no reason to show nothing
            pass
    return f"<pre><code>{escape(text)}</code></pre>"


def _rendered(text: str) -> str:
    renderer = _renderer()
    # Of this thread: on a busy machine an answer is not shown in another way.
    env = {_DEADLINE: time.thread_time() + LIMIT}
    tokens = renderer.parse(text, env)
    if _length(tokens) > LONGEST_HTML:
        raise _TooMuchError
    return str(renderer.renderer.render(tokens, renderer.options, env))


class _TooMuchError(Exception):
    """It takes too long, or becomes too long."""


@cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("js-default", {"html": False}).disable("image")
    renderer.validateLink = lambda url: bool(_TARGET.match(url))  # type: ignore[method-assign]
    renderer.inline.ruler.before("escape", "tex", _tex)
    # First of all: they are asked at each place.
    renderer.inline.ruler.before("text", _DEADLINE, _look_at_inline_time)
    inside = ["paragraph", "reference", "blockquote", "list"]  # and at each line of these
    renderer.block.ruler.before("table", _DEADLINE, _look_at_block_time, {"alt": inside})
    renderer.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    return renderer


def _look_at_inline_time(state: StateInline, silent: bool) -> bool:  # noqa: ARG001, FBT001 - as the renderer calls it
    if time.thread_time() > state.env[_DEADLINE]:
        raise _TooMuchError
    return False


def _look_at_block_time(state: StateBlock, begin: int, end: int, silent: bool) -> bool:  # noqa: ARG001, FBT001 - see above
    if time.thread_time() > state.env[_DEADLINE]:
        raise _TooMuchError
    return False


def _table(state: StateBlock, begin: int, end: int, silent: bool) -> bool:  # noqa: FBT001 - as the renderer calls it
    if not silent and _is_large_table(state, begin, end):
        return False
    return table(state, begin, end, silent)


def _is_large_table(state: StateBlock, begin: int, end: int) -> bool:
    """Whether a table that began here would have too many cells: each of its lines has as many as the second one."""
    if begin + 1 >= end:
        return False
    second = state.src[state.bMarks[begin + 1] : state.eMarks[begin + 1]]
    if not _SECOND_LINE.fullmatch(second):
        return False
    most = MOST_CELLS // (second.count("|") + 1)
    return begin + most < end and not any(state.isEmpty(line) for line in range(begin, begin + most))


def _length(tokens: Sequence[Token]) -> int:
    return sum(
        20
        + len(one.content)
        + sum(len(str(value)) for value in one.attrs.values())
        + _length(one.children or ())
        for one in tokens
    )


def _tex(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - as the renderer calls it
    """TeX is text to the end, in which no underscore is an emphasis and no backslash an escape."""
    found = _TEX.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True
