"""Classic Notebook 6.5 with the versions of Google Colab: the magics, completion, and the panel."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from .classic import ClassicNotebook, serving
from .panel import Panel


def test_classic_notebook(browser, vllm, server, fake_gpus, tmp_path):
    server(vram=6 << 30)
    cells = ("%load_ext vllm_magic\n%vllm panel", "%%vllm --max-tokens 4\nTell me a story.", "")
    with serving(tmp_path / "classic", *cells) as url:
        notebook = ClassicNotebook(browser.context.new_page())
        try:
            notebook.open(url)
            notebook.run(0)
            panel = Panel(notebook, 0)
            panel.start("org/tiny")
            notebook.run(1)
            expect(notebook.output(1)).to_contain_text("tokens/s")
            expect(notebook.complete(2, "%vllm st")).to_have_text(re.compile("start.*stop.*status"))
            notebook.page.keyboard.press("Escape")
            panel.root.scroll_into_view_if_needed()
            notebook.shot("panel-ready")
            panel.button("Stop").click()
            panel.state("released")
            notebook.shot("panel-released")
            # Every anywidget has this error there, a bare one too; it comes from the extension of ipywidgets 7.
            assert set(notebook.errors) <= {"Host is not attached."}
        finally:
            notebook.shot("last")
            notebook.page.close()
    outside, browser.outside = browser.outside, []
    assert outside == []
