"""How soon a click on the panel can be seen, and how soon it acts beside a busy cell, in chromium."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.target import Target
    from tests.browser.panel import Panel

LIMIT = 60_000.0  # ms for whatever the page is waited for
# From the click until the frame after the one that shows the button's new words has begun.
CLICK = """button => new Promise(seen => {
    const watcher = new MutationObserver(() => {
        watcher.disconnect()
        requestAnimationFrame(() => requestAnimationFrame(() => seen((performance.now() - began) / 1000)))
    })
    watcher.observe(button, { childList: true, characterData: true, subtree: true })
    const began = performance.now()
    button.click()
})"""
BUSY = "import time; time.sleep(600)"
# From the click until the panel shows that the server is not ready any more: the kernel has asked it to end by then.
STOP = """button => new Promise(seen => {
    const pill = button.closest('.vmp').querySelector('.vmp-pill')
    const watcher = new MutationObserver(() => {
        watcher.disconnect()
        seen((performance.now() - began) / 1000)
    })
    watcher.observe(pill, { childList: true, characterData: true, subtree: true })
    const began = performance.now()
    button.click()
})"""


def can_click() -> bool:
    """Whether there are chromium, Playwright and JupyterLab."""
    return bool(shutil.which("chromium") and find_spec("playwright") and find_spec("jupyterlab"))


def click_seconds(target: Target, times: int) -> list[float]:
    """Return how long each of so many starts and stops takes from the click to the button's new words on the screen."""
    with _panel(target, "lab") as panel:
        took: list[float] = []
        for _ in range(times):
            panel.fill(target.model)
            for button, state in (("Start", "ready"), ("Stop", "released")):
                took.append(panel.button(button).evaluate(CLICK))
                panel.state(state)
    return took


def stop_seconds(target: Target, app: str, times: int) -> list[float]:
    """Return how long each of so many stops, beside a cell that sleeps, takes from the click until it has begun.

    Args:
        target: what is started.
        app: "lab" or "notebook".
        times: how many.
    """
    with _panel(target, app) as panel:
        took: list[float] = []
        for _ in range(times):
            panel.start(target.model)
            panel.page.run(1, wait=False)
            panel.wait_for_busy()
            took.append(panel.button("Stop").evaluate(STOP))
            panel.state("released")
            panel.page.command("notebook:interrupt-kernel")
            panel.page.wait_for_kernel()
    return took


@contextmanager
def _panel(target: Target, app: str) -> Iterator[Panel]:
    """A panel in a notebook, above a cell that sleeps."""
    from playwright.sync_api import expect

    from tests.browser import chromium
    from tests.browser.notebooks import Notebook
    from tests.browser.panel import OPEN, Panel
    from tests.browser.servers import JupyterServer

    expect.set_options(timeout=LIMIT)
    folder = Path(tempfile.mkdtemp(dir=target.folder))
    (folder / "server").mkdir()
    with (
        patch.dict(os.environ, target.env, VLLM_MAGIC_EXECUTABLE=target.executable),
        closing(JupyterServer(app, folder / "server")) as server,
        chromium.running(folder / "chromium") as browser,
    ):
        page = Notebook(browser.context.new_page(), server)
        page.open(OPEN, BUSY)
        page.run(0)
        yield Panel(page, 0)
        server.end_kernels()
