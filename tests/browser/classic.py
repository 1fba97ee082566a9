"""Classic Notebook 6.5, as Google Colab's environment has it: a server of its own, and a page with one notebook."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from by_hand import free_port, until
from environments.catalog import COLAB

from .notebooks import SHOTS, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Locator, Page

LIMIT = 60.0  # seconds for the server to end
# A widget that is made before the page has its manager of widgets is never shown.
_IDLE = """() => {
    const kernel = window.Jupyter?.notebook?.kernel
    return kernel?.is_connected() && kernel.widget_manager && !window.Jupyter.notebook.kernel_busy
}"""
# Nor is one that is made while the manager still asks the kernel which widgets there are. ipywidgets 7 does not know the
# first way of asking; the manager says so in the console, and sends a comm_info_request. The kernel answers in order.
_FIRST_WAY_FAILED = "jupyter.widget.control"
_ANSWERED = "() => new Promise(done => window.Jupyter.notebook.kernel.comm_info('jupyter.widget', done))"


class ClassicNotebook:
    """A page of Notebook 6.5 with one notebook.

    Attributes:
        page: Playwright's.
        errors: what the page's scripts reported as an error.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, url: str) -> None:
        """Open a notebook, and wait for its kernel, and until the page knows the kernel's widgets."""
        with self.page.expect_console_message(lambda message: _FIRST_WAY_FAILED in message.text):
            self.page.goto(url)
        self.page.evaluate(_ANSWERED)
        self.page.wait_for_function(_IDLE)

    def output(self, index: int) -> Locator:
        """Return what a cell shows."""
        return self.page.locator("#notebook .cell").nth(index).locator(".output_wrapper")

    def run(self, index: int) -> None:
        """Run a cell, and wait until the kernel is idle again."""
        self.page.evaluate("index => window.Jupyter.notebook.execute_cells([index])", index)
        self.page.wait_for_function(
            "index => Number.isInteger(window.Jupyter.notebook.get_cell(index).input_prompt_number)",
            arg=index,
        )
        self.page.wait_for_function(_IDLE)

    def complete(self, index: int, text: str) -> Locator:
        """Type at the end of a cell, press Tab, and return the menu."""
        self.page.evaluate(
            "index => { const c = window.Jupyter.notebook.get_cell(index); window.Jupyter.notebook.select(index); c.focus_editor() }",
            index,
        )
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Tab")
        menu = self.page.locator("#complete")
        menu.wait_for()
        return menu

    def shot(self, name: str) -> None:
        """Take a picture of the page, build/shots/NAME-classic.png."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}-classic.png")


@contextmanager
def serving(folder: Path, *cells: str) -> Iterator[str]:
    """Run Notebook 6.5 until the block ends, and yield the URL of a notebook of these cells."""
    plain = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "test.ipynb").write_text(
        json.dumps(
            {
                "cells": [{**plain, "source": source} for source in cells],
                "metadata": {"kernelspec": spec},
                "nbformat": 4,
                "nbformat_minor": 4,
            }
        )
    )
    port, token = free_port(), secrets.token_hex(16)
    own = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    folders = {name: str(folder / name.lower()) for name in own}
    command = [
        *(
            str(COLAB.python),
            "-W",
            "ignore",
            "-m",
            "notebook",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
        ),
        *(f"--port={port}", f"--NotebookApp.token={token}", f"--notebook-dir={folder / 'notebooks'}"),
    ]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **folders}
        ) as process,
    ):
        try:
            until(lambda: process.poll() is not None or _answers(port, token), "Notebook does not answer")
            yield f"http://127.0.0.1:{port}/notebooks/test.ipynb?token={token}"
        finally:
            process.terminate()  # it ends its kernels first
            process.wait(LIMIT)


def _answers(port: int, token: str) -> bool:
    with suppress(OSError):
        return bool(
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).status == 200
        )
    return False
