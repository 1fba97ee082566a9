"""`%%vllm`: what a person sees of an answer in a terminal, in a notebook, and in a saved one."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
import stand_in

from vllm_magic.engine.client.generate import Answer, Piece, PieceKind
from vllm_magic.engine.startup.log import printable
from vllm_magic.jupyter.display import answer, updated
from vllm_magic.jupyter.display.mode import DisplayMode

LIMIT = 60.0


def start(shell, words: str = "", **faults):
    shell.user_ns["says"] = stand_in.options(**faults)["STAND_IN"]
    return shell.run_line_magic("vllm", f"start tiny --enable-log-requests {words} --env STAND_IN={{says}}")


class TestNotebook:
    """What is shown, without a kernel."""

    @pytest.fixture
    def seen(self, monkeypatch):
        seen = []

        class Handle:
            def update(self, data, raw):
                seen.append(data)

        def display(data, raw, display_id=False):
            seen.append(data)
            return Handle()

        for module in (answer, updated):
            monkeypatch.setattr(module, "display", display)
        return seen

    def say(self, *pieces: Piece, as_json: bool = False) -> None:
        view = answer.NotebookAnswer(as_json=as_json, streamed=True)
        for piece in pieces:
            view.add(piece)
        view.finish("the <end>")

    def test_few_updates_and_all_of_it_in_the_end(self, seen):
        began = time.monotonic()
        self.say(*[Piece(PieceKind.TEXT, f"w{number} ") for number in range(5000)])
        assert len(seen) <= 3 + (time.monotonic() - began) / answer.UPDATE_INTERVAL
        whole = "".join(f"w{number} " for number in range(5000))
        assert seen[-2] == {"text/plain": whole, "text/html": f"<p>{whole.rstrip()}</p>\n"}
        assert seen[-1] == {"text/plain": "the <end>", "text/html": "<small>the &lt;end&gt;</small>"}

    def test_without_updates_the_whole_answer_is_the_only_output(self, seen):
        view = answer.new_answer(DisplayMode.FINAL, as_json=False)
        for text in ("one", " two"):
            view.add(Piece(PieceKind.TEXT, text))
        view.finish("the end")
        assert [data["text/plain"] for data in seen] == ["one two", "the end"]

    @pytest.mark.parametrize(
        ("said", "html"),
        [
            (
                "# A *b*\n\n- c `<d>`",
                "<h1>A <em>b</em></h1>\n<ul>\n<li>c <code>&lt;d&gt;</code></li>\n</ul>\n",
            ),
            ("```python\nx < 1\n", '<pre><code class="language-python">x &lt; 1\n</code></pre>\n'),
            (r"$a_1 * b_1 * c$ \(\frac{x}{y}\)", "<p>$a_1 * b_1 * c$ \\(\\frac{x}{y}\\)</p>\n"),
            ("$$\nx \\\\\n< y\n$$", "<p>$$\nx \\\\\n&lt; y\n$$</p>\n"),
            (
                "[a](https://b.c) <d@e.f>",
                '<p><a href="https://b.c">a</a> <a href="mailto:d@e.f">d@e.f</a></p>\n',
            ),
        ],
    )
    def test_markdown(self, seen, said, html):
        self.say(Piece(PieceKind.TEXT, said))
        assert seen[-2] == {"text/plain": said, "text/html": html}

    @pytest.mark.parametrize(
        "said",
        [
            "<script>alert(1)</script>\x1b[31m",
            "<div>\n\n<img src=x onerror=alert(1)>",
            "`a\n\n<img src=x onerror=alert(1)>`",
            "[a](javascript:alert(1))",
            "[a](java&Tab;script:alert(1))",
            "[a][b]\n\n[b]: <JavaScript:alert(1)>",
            "<javascript:alert(1)>",
            "[a](data:text/html,x) [b](/lab?token) [c](//name.invalid)",
            "![a](x)",
            '```x"onclick=alert(1)\n```',
            "$<img src=x>$ $$<img src=x>$$ \\(<img src=x>\\)",
            "| <b>a |\n|-|\n| <b>b |",
        ],
    )
    @pytest.mark.parametrize("kind", PieceKind)
    def test_nothing_of_it_is_more_than_text(self, seen, kind, said):
        class Tags(HTMLParser):
            def handle_starttag(self, tag, attributes):
                assert re.fullmatch("details|summary|blockquote|p|code|pre|table|thead|tbody|tr|th|td", tag)
                assert [name for name, _ in attributes if name != "class"] in ([], ["open"])

        self.say(Piece(kind, said))
        for data in seen:
            Tags().feed(data["text/html"].replace("<small>", ""))
        assert "\x1b" not in seen[-2]["text/plain"]

    def test_an_image_is_a_link(self, seen):
        self.say(Piece(PieceKind.TEXT, "![a](https://name.invalid/b)"))
        assert seen[-2]["text/html"] == '<p>!<a href="https://name.invalid/b">a</a></p>\n'

    def test_thoughts_are_folded_when_the_answer_begins(self, seen, monkeypatch):
        monkeypatch.setattr(answer, "UPDATE_INTERVAL", 0.0)
        self.say(Piece(PieceKind.REASONING, "a <b>\n```"), Piece(PieceKind.TEXT, "done"))
        quoted = "<blockquote><p>a &lt;b&gt;</p>\n<pre><code></code></pre>\n</blockquote></details>"
        assert seen[0]["text/html"] == f"<details open><summary>thinking</summary>{quoted}"
        assert seen[-2]["text/html"] == f"<details><summary>thought</summary>{quoted}<p>done</p>\n"
        assert seen[-2]["text/plain"] == "> a <b>\n> ```\n\ndone"

    def test_a_refusal(self, seen):
        self.say(Piece(PieceKind.REFUSAL, "No."))
        assert seen[-2]["text/html"] == "<p>The model refuses: No.</p>\n"

    def test_json_is_code(self, seen):
        self.say(Piece(PieceKind.TEXT, '{"a": "```"}'), as_json=True)
        assert seen[-2]["text/html"] == "<pre><code>{&quot;a&quot;: &quot;```&quot;}</code></pre>"
        assert seen[-2]["text/plain"] == '{"a": "```"}'

    def test_nothing_was_said(self, seen):
        self.say()
        assert [set(data) for data in seen] == [{"text/plain", "text/html"}]


def test_the_line_below():
    nothing = Answer("", "", "", None, None, None, 0.0, None)
    assert nothing.summary() == "no answer"
    assert nothing.summary("interrupted") == "interrupted"
    cut = Answer("x", "", "", "length", 5, 11, 1.25, 0.25)
    assert cut.summary() == (
        "5 tokens in, 11 out · 10.0 tokens/s · the first after 0.25 s · cut at the limit of tokens"
    )


def test_printable():
    assert printable("a\x1b[1mb\nc\td\r\n") == "ab\nc\td\n"
