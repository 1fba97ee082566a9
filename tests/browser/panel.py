"""The panel in a cell's output, as a person handles it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from vllm_magic.linux import processes

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from .notebooks import Notebook

OPEN = "%load_ext vllm_magic\n%vllm panel"
AGAIN = "%vllm panel"


class Panel:
    """One view of it.

    Args:
        page: the notebook.
        cell: the index of the cell that shows it.
    """

    def __init__(self, page: Notebook, cell: int) -> None:
        self.page = page
        self.root = page.output(cell).locator(".vmp")
        self.root.wait_for()
        self.log = self.root.get_by_role("log", name="Log", include_hidden=True)
        self.servers = self.root.locator(".vmp-chip")

    def fill(self, model: str, flags: str = "", gpus: str = "") -> None:
        """Fill in the form."""
        for name, text in (("Model", model), ("Flags", flags), ("GPUs", gpus)):
            self.root.locator(".vmp-form").get_by_label(name).fill(text)

    def start(self, model: str) -> None:
        """Start a server, and wait until it is ready."""
        self.fill(model)
        self.button("Start").click()
        self.state("ready")

    def button(self, name: str) -> Locator:
        """Return the button of this name."""
        return self.root.get_by_role("button", name=name, exact=True)

    def state(self, name: str) -> None:
        """Wait for this state."""
        expect(self.root.locator(".vmp-pill")).to_have_text(name)

    def wait_state(self, name: str, seconds: float) -> None:
        """Wait for a state that takes its time, or for the failure that comes in its place."""
        pill = self.root.locator(".vmp-pill")
        expect(pill).to_have_text(re.compile(f"{name}|failed"), timeout=1000 * seconds)
        expect(pill).to_have_text(name)

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.root.get_by_role("tab", name=name).click()

    def say(self, text: str) -> None:
        """Say it in the chat."""
        box = self.root.get_by_role("textbox", name="What to say")
        box.fill(text)
        box.press("Enter")

    def gpu(self, index: int) -> Locator:
        """Return the row of a GPU."""
        return self.root.locator(".vmp-gpu").nth(index)

    def choose(self, name: str) -> None:
        """Show this server."""
        self.servers.filter(has_text=name).first.click()

    def wait_for_busy(self) -> None:
        """Wait until the panel has heard that a cell runs."""
        expect(self.root).to_have_attribute("data-busy", "true")

    def shot(self, name: str) -> None:
        """Take a picture of it, build/shots/panel-NAME-APP.png."""
        self.page.picture(self.root, f"panel-{name}")


def open_panel(page: Notebook, *cells: str) -> Panel:
    """Open a notebook whose first cell shows it; these come below."""
    page.resize(1400, 1150)
    page.open(OPEN, *cells)
    page.run(0)
    return Panel(page, 0)


def started(page: Notebook, *cells: str) -> Panel:
    """The same, with a server that is ready."""
    panel = open_panel(page, *cells)
    panel.start("tiny")
    return panel


def processes_of(panel: Panel) -> list[int]:
    """Return the pids of the server that is shown."""
    header = panel.root.locator(".vmp-header").inner_text()
    leader = int(re.search(r"pid (\d+)", header)[1])
    return [leader, *processes.descendants(processes.table(), leader)]


def until_gone(pids: list[int]) -> None:
    """Wait until none of them lives."""
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if processes.read(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
