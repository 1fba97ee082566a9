"""What a model says, as HTML for a notebook.

A front end trusts what a cell that was run shows: JupyterLab would run a script in its Markdown. So the Markdown of a
model is rendered here, and can do nothing there: HTML in it stays text, a link leads to the web or to a mail address
and nowhere else, and an image is a link, since to load it would tell its server whatever the model put into its URL.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from markdown_it.rules_inline import StateInline

_TARGET = re.compile(r"(https?|mailto):", re.IGNORECASE)
# Up to a length, so that what is opened again and again and never closed takes no time.
_TEX = re.compile(
    r"\$\$.{1,2000}?\$\$|\$(?! )[^$\n]{1,500}(?<! )\$(?!\d)|\\\(.{1,500}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL
)


def html(text: str) -> str:
    """The HTML of this Markdown (CommonMark, tables and strikethrough); TeX is left to the front end."""
    return str(_renderer().render(text))


@cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("js-default", {"html": False}).disable("image")
    renderer.validateLink = lambda url: bool(_TARGET.match(url))  # type: ignore[method-assign]
    renderer.inline.ruler.before("escape", "tex", _tex)
    return renderer


def _tex(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - as the renderer calls it
    """TeX is text to the end, in which no underscore is an emphasis and no backslash an escape."""
    found = _TEX.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True
