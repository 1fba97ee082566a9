"""The Markdown of a model: what would hold the kernel up is shown as it stands."""

from __future__ import annotations

import re
import time
from html import escape

import pytest

from vllm_magic.jupyter.display import markdown

N = 20_000
PROSE = "The **quick** brown [fox](http://a.b) jumps over `code` and $x_1$.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
SLOW = {
    "brackets": "[" * N,
    "images": "![" * N,
    "footnotes": "[^" * N,
    "links in links": "[" * 5000 + "](b)" * 5000,
    "a reference": f"[a]: http://{'x' * 20_000}\n\n{'[a]' * 5000}",
    "a table": f"|{'a|' * 300}\n|{'-|' * 300}\n" + "|\n" * 5000,
    "a table in a quotation": f"> |{'a|' * 300}\n> |{'-|' * 300}\n" + "> |\n" * 5000,
}
AS_IT_STANDS = {"brackets", "images", "footnotes", "a reference"}
HARMLESS = {
    "quotations": ">" * N,
    "lists": "- " * N,
    "numbered lists": "1. " * N,
    "code": "".join("`" * n + "a" for n in range(1, 200)),
    "emphasis": "*_a" * N,
    "dollars": "$a" * N,
    "brackets of TeX": "\\[" * N,
    "HTML": "<!--" * N,
    "lines": "a\n" * (N * 3),
    "headings": "# a\n" * N,
    "entities": "&amp;" * N,
    "one word": "a" * N * 6,
    "a long one": PROSE * (markdown.LONGEST_RENDERED // len(PROSE)),
}


def timed(text: str) -> tuple[str, float]:
    began = time.thread_time()
    return markdown.html(text), time.thread_time() - began


@pytest.mark.parametrize("name", [*SLOW, *HARMLESS])
def test_it_takes_no_time_and_no_room(name, monkeypatch):
    monkeypatch.setattr(markdown, "RENDER_LIMIT", 0.3 if name in SLOW else markdown.RENDER_LIMIT)
    text = {**SLOW, **HARMLESS}[name]
    html, took = timed(text)
    assert took < 4 * markdown.RENDER_LIMIT
    assert len(html) < markdown.LONGEST_HTML + 10 * len(text)
    if name in AS_IT_STANDS:
        assert html == f"<pre><code>{escape(text)}</code></pre>"


def test_nothing_of_it_becomes_html(monkeypatch):
    monkeypatch.setattr(markdown, "RENDER_LIMIT", -1.0)
    assert markdown.html("<script>**a**") == "<pre><code>&lt;script&gt;**a**</code></pre>"


def test_a_text_that_is_too_long():
    text = "**a** " * markdown.LONGEST_RENDERED
    assert markdown.html(text) == f"<pre><code>{text}</code></pre>"


def test_a_fault_of_the_renderer(monkeypatch):
    def fail(_: object) -> int:
        raise IndexError

    monkeypatch.setattr(markdown, "_length", fail)
    assert markdown.html("*a*") == "<pre><code>*a*</code></pre>"


def test_a_table_far_above_the_end():
    html = markdown.html("a | b\n--|--\n1 | 2\n\n" + "text\n" * 9000)
    assert html.startswith("<table>")
    assert len(re.findall("<t[dh]>", html)) == 4


def test_a_long_table():
    html = markdown.html("a | b\n--|--\n" + "1 | 2\n" * 3000)
    assert html.count("<td>") == 6000
    assert markdown.html("a | b\n--|--\n" + "1 | 2\n" * 9000).startswith("<p>a | b\n--|--")
