"""Views in every front end: as text, HTML and Markdown, with the extension loaded or not; nothing from outside is markup."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from shells import a_shell
from view_checks import Page, a_server, same

from vllm_magic.engine.client.generate import Answer
from vllm_magic.release.result import GpuMemory, Proof, Release
from vllm_magic.server.sleep_mode import SleepResult
from vllm_magic.view import View

EVIL = "<script>alert(1)</script> *a* _b_ `c` [d](http://e) $f$ ~~g~~ | \\h &lt; \"'"
BREAKS_OUT = "```\n<script>alert(2)</script>\n````\nout"
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
VRAM = (GpuMemory(0, "GPU-a", EVIL, 0, 2**30, 0),)

RESULTS = [
    a_server(name="tiny", model=EVIL),
    a_server(name="tiny", model=EVIL).status,
    Answer(f"{EVIL}\n{BREAKS_OUT}", "", "", "stop", 1, 2, 0.5, 0.1),
    Release("tiny", "asked", 0.5, (), (), 0, VRAM, Proof.PROCESSES, verified=True, note=EVIL),
    SleepResult(EVIL, asleep=True, seconds=1.0, before=None, after=None),
]


def check(result) -> str:
    """Check that Markdown, rendered, has the text of the view and only plain tags; return the text."""
    view = result.status.view() if hasattr(result, "status") else result.view()
    text = same(view)
    rendered = Page(RENDERER.render(result._repr_markdown_()))
    assert rendered.tags <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}
    assert rendered.attributes <= set()
    assert " ".join(rendered.text).split() == text.split()
    assert result._mime_() == ("text/html", view._repr_html_())
    return text


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_the_same_everywhere(result):
    assert "<script>alert(1)</script>" in check(result)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_ipython_needs_no_extension(result):
    with a_shell() as shell:
        shown = shell.display_formatter.format(result)[0]
    assert shown["text/html"] == result._repr_html_()
    assert shown["text/markdown"] == result._repr_markdown_()
    assert shown["text/plain"] in check(result)


def test_a_view_without_a_table_or_text():
    assert View("only this")._repr_markdown_() == "**only this**"
    assert View(lines=("a", "b"))._repr_markdown_() == "```\na\nb\n```"
    assert View()._repr_markdown_() == ""
