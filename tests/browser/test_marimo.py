"""marimo in the browser: the notebook of `notebooks/` as an app for two visitors, and the editor with what goes wrong."""

from __future__ import annotations

import re

import pytest
import stand_in
from playwright.sync_api import expect

from .marimo import Marimo
from .notebooks import SHOTS, TIMEOUT
from .servers import ROOT

SCRIPT = "<script>alert('script')</script>"
IMAGE = "<img src=x onerror=alert('img')>"
HOSTILE = [f"ValueError: {SCRIPT}", "<img src=x onerror=\"alert('img')\">"]

NOTEBOOK = """
import marimo

app = marimo.App()


@app.cell
def _():
    import time
    from pathlib import Path

    import marimo as mo
    import vllm_magic
    return Path, mo, time, vllm_magic


@app.cell
def _(mo, vllm_magic):
    mo.ui.anywidget(vllm_magic.panel())
    return


@app.cell
def _(Path, time):
    while not Path({go!r}).exists():
        time.sleep(0.1)
    went = True
    return (went,)


@app.cell
def _(vllm_magic, went):
    server = vllm_magic.start("org/tiny", force=went)
    server
    return (server,)


@app.cell
def _(server, vllm_magic):
    vllm_magic.start(server.model, "--max-model-len", "512")
    return


@app.cell
def _(vllm_magic, went):
    vllm_magic.start({model!r}, name="bad", env={fails!r}, force=went)
    return
"""


class Page:
    """A page of marimo in the browser."""

    def __init__(self, page, url: str) -> None:
        self.page = page
        self.dialogs: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("dialog", self._answer)
        page.goto(url)
        self.panel = page.locator(".vmp")
        self.primary = self.panel.locator(".vmp-primary")
        self.note = self.panel.locator(".vmp-note.queued")

    def _answer(self, dialog) -> None:
        if dialog.type == "beforeunload":
            dialog.accept()
        else:
            self.dialogs.append(dialog.message)
            dialog.dismiss()

    def run_all(self) -> None:
        """Run the cells of the editor, none of which has run yet."""
        self.page.get_by_test_id("memory-usage-bar").wait_for()  # before the kernel is there a click is lost
        self.page.get_by_test_id("chrome-controls-bottom-right").get_by_test_id("run-button").click()

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}-marimo.png", full_page=True)

    def state(self, name: str, server: str = "tiny") -> None:
        """Show a server in the panel, and wait for its state."""
        self.panel.locator(".vmp-chip").filter(has_text=server).first.click()
        expect(self.panel.locator(".vmp-pill")).to_have_text(name)

    def has(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def submit(self, label: str, text: str, button: str) -> None:
        """Fill in a form of marimo, and submit it."""
        self.page.get_by_label(label).first.fill(text)
        self.page.get_by_role("button", name=button, exact=True).first.click()


@pytest.fixture
def opened(browser, vllm, server, tmp_path):
    """Open a notebook in marimo: ``opened("run", path)`` returns a function that opens a page of it."""
    started, pages = [], []

    def start(mode, notebook):
        one = Marimo(mode, notebook, tmp_path / "marimo")
        started.append(one)

        def page() -> Page:
            made = Page(browser.context.new_page(), one.url)
            pages.append(made)
            return made

        return page

    yield start
    for page in pages:
        if not page.page.is_closed():
            page.shot(f"last-{len(pages)}")
            page.page.close()
    for one in started:
        one.close()
    outside, browser.outside = browser.outside, []
    assert outside == []


def test_an_app_with_two_visitors(opened, server, monkeypatch, traces):
    server(load_s=2.0)
    monkeypatch.setenv("MODEL", "org/tiny")
    page = opened("run", ROOT / "notebooks" / "marimo_demo.py")
    first = page()
    first.submit("Model", f"/nowhere/{IMAGE}", "Start")
    first.has(re.compile("/nowhere/<img"))
    first.submit("Model", "org/tiny", "Start")
    first.has(re.compile(r"tiny: (importing vLLM|loading weights)"))
    first.shot("start")
    first.has("tiny: ready")
    first.submit("What to ask", "Why?", "Ask")
    first.has(re.compile(r"tokens in, \d+ out"))
    first.state("ready")
    first.shot("app")
    second = page()
    second.submit("Model", "org/tiny", "Start")
    second.has("tiny: ready")
    second.state("ready")
    pid = second.panel.locator(".vmp-header").inner_text().partition("pid ")[2]
    assert pid
    assert pid in first.panel.locator(".vmp-header").inner_text()
    second.page.get_by_role("button", name="Stop", exact=True).first.click()
    second.has(re.compile("tiny released in"))
    second.state("released")
    second.shot("released")
    second.submit("Model", "org/other", "Start")
    second.has("other: ready")
    assert traces.processes()
    first.page.close()
    second.page.close()
    traces.wait()
    assert first.dialogs + second.dialogs == []


def test_the_editor(opened, server, tmp_path, traces):
    server(load_s=1.0)
    fails = stand_in.options(die={"who": "engine", "when": "init", "says": HOSTILE})
    notebook, go = tmp_path / "notebook.py", tmp_path / "go"
    notebook.write_text(NOTEBOOK.format(fails=fails, model=f"org/{SCRIPT}", go=str(go)))
    one = opened("edit", notebook)()

    one.run_all()
    one.panel.locator(".vmp-form").get_by_label("Model").fill("org/typed")
    one.primary.click()
    expect(one.note).to_be_visible()
    expect(one.note).to_contain_text("Queued until the cell ends")
    one.shot("queued")
    go.touch()
    one.has("tiny: ready")
    one.has(re.compile(r'Stop it first \(vllm_magic\.stop\("tiny"\)\)'))
    one.has(re.compile("<script>alert"))
    one.state("ready", "typed")
    one.shot("errors")
    assert one.dialogs == []

    # marimo closes a widget when its cell runs again.
    one.panel.evaluate("panel => panel.setAttribute('data-old', '')")
    one.page.locator(".cm-content").get_by_text("anywidget").click()
    one.page.keyboard.press("Control+Enter")
    expect(one.panel).not_to_have_attribute("data-old", "")
    one.state("ready", "typed")

    assert traces.processes()
    go.unlink()
    one.page.get_by_test_id("notebook-menu-dropdown").click()
    one.page.get_by_role("menuitem", name="Restart kernel").click()
    one.page.get_by_role("alertdialog").get_by_role("button", name="Restart").click()
    traces.wait()
