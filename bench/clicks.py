"""How soon a click on the panel can be seen, in JupyterLab in chromium."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from bench.target import Target

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


def can_click() -> bool:
    """Whether there are chromium, Playwright and JupyterLab."""
    return bool(shutil.which("chromium") and find_spec("playwright") and find_spec("jupyterlab"))


def click_seconds(target: Target, times: int) -> list[float]:
    """Return how long each of so many starts and stops takes from the click to the button's new words on the screen."""
    from playwright.sync_api import expect

    from tests.browser import chromium
    from tests.browser.notebooks import Notebook
    from tests.browser.panel import Panel
    from tests.browser.servers import JupyterServer

    expect.set_options(timeout=LIMIT)
    folder = target.folder / "lab"
    folder.mkdir()
    with (
        patch.dict(os.environ, target.env, VLLM_MAGIC_EXECUTABLE=target.executable),
        closing(JupyterServer("lab", folder)) as server,
        chromium.running(target.folder / "chromium") as browser,
    ):
        page = Notebook(browser.context.new_page(), server)
        page.open("%load_ext vllm_magic\n%vllm panel")
        page.run(0)
        panel = Panel(page, 0)
        took: list[float] = []
        for _ in range(times):
            panel.fill(target.model)
            for button, state in (("Start", "ready"), ("Stop", "released")):
                expect(panel.button(button)).to_be_enabled()
                took.append(panel.button(button).evaluate(CLICK))
                panel.state(state)
        server.end_kernels()
    return took
