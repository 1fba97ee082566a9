"""A notebook in the browser, as a person handles it. JupyterLab and Notebook 7 are the same application here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from .chromium import VIEWPORT
from .servers import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Dialog, Locator, Page

    from .servers import JupyterServer

SHOTS = ROOT / "build" / "shots"
TIMEOUT = 30_000.0  # ms; what is waited for is there in far less, unless the machine is busy
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# A cell that is run before the websocket of its kernel is up goes back to "[ ]" without a word, and the toolbar calls
# the kernel idle before. So the application is asked.
_CONNECTED = """async () => {
    const session = window.jupyterapp?.shell?.currentWidget?.context?.sessionContext
    if (!session) return false
    await session.ready
    const kernel = session.session?.kernel
    if (!kernel) return false
    await kernel.info
    return kernel.connectionStatus === 'connected' && kernel.status === 'idle'
}"""
_WATCH_RESTART = """() => {
    const { statusChanged } = window.jupyterapp.shell.currentWidget.sessionContext
    window.restartBegun = false
    statusChanged.connect(function begun(context, status) {
        if (status !== 'restarting') return
        window.restartBegun = true
        statusChanged.disconnect(begun)
    })
}"""
_RESTARTED = "() => window.restartBegun && !window.jupyterapp.shell.currentWidget.sessionContext.isRestarting"
_RUN = """index => {
    const { commands, shell } = window.jupyterapp
    const notebook = shell.currentWidget.content
    notebook.activeCellIndex = index
    notebook.deselectAll()
    window.running ??= new Set()
    window.running.add(index)
    commands.execute('notebook:run-cell').finally(() => window.running.delete(index))
}"""


class Notebook:
    """One page with one notebook.

    Attributes:
        page: Playwright's, for everything that is not here.
        server: the Jupyter server.
        dialogs: what `alert` and its like said; they are dismissed.
        errors: what the page's scripts reported as an error.
    """

    def __init__(self, page: Page, server: JupyterServer) -> None:
        self.page = page
        self.server = server
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("dialog", self._answer)
        page.on("console", self._keep_error)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, *cells: str, kernel: str = "ipykernel") -> None:
        """Open a notebook of these code cells and wait for its kernel.

        Args:
            cells: the text of each.
            kernel: a name of `servers.KERNELS`. Its environment is this process's as it is now.
        """
        self.page.goto(self.server.write(list(cells), kernel))
        self.wait_for_kernel()

    def reload(self) -> None:
        """Load the page again and wait for the kernel, which lives on. What was not saved is lost."""
        self.page.reload()
        self.wait_for_kernel()

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")

    def wait_for_kernel(self) -> None:
        """Wait until the kernel is connected and idle."""
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.page.wait_for_function(_CONNECTED)

    def cell(self, index: int) -> Locator:
        """Return a cell, from 0."""
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}']")

    def output(self, index: int) -> Locator:
        """Return what a cell shows."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def run(self, index: int, *, wait: bool = True) -> None:
        """Run a cell, and wait until it has ended.

        Before it is interrupted it must have shown something: "[*]" stands there before the kernel has it.
        """
        self.page.evaluate(_RUN, index)
        if wait:
            self.wait_for_end(index)

    def wait_for_end(self, index: int) -> None:
        """Wait until a cell that was run has ended; it has its number then, or an error says that it did not run."""
        self.page.wait_for_function("index => !window.running.has(index)", arg=index)
        count = "index => window.jupyterapp.shell.currentWidget.content.widgets[index].model.executionCount"
        assert self.page.evaluate(count, index), f"cell {index} was not run"

    def type(self, index: int, text: str) -> None:
        """Type in a cell in place of what is there; the cursor stays at the end."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(text)

    def completions(self) -> Locator:
        """Press Tab, and return the entries of the menu, which is there."""
        self.page.keyboard.press("Tab")
        menu = self.page.locator(".jp-Completer:visible")
        menu.wait_for()
        return menu.locator(".jp-Completer-item")

    def menu(self, *labels: str) -> None:
        """Click through the menus: ``menu("Kernel", "Interrupt Kernel")``."""
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(labels[0], exact=True).click()
        for label in labels[1:]:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(label, exact=True).click()

    def command(self, name: str, **arguments: object) -> None:
        """Have the application begin a command, and not wait for its end."""
        self.page.evaluate(
            "([name, given]) => { window.jupyterapp.commands.execute(name, given) }", [name, arguments]
        )

    def restart_kernel(self) -> None:
        """Restart the kernel through the menu, and wait until the new one is there."""
        self.page.evaluate(_WATCH_RESTART)  # the kernel is idle until its restart begins
        self.menu("Kernel", "Restart Kernel…")
        dialog = self.page.locator(".jp-Dialog")
        dialog.locator(".jp-mod-accept").click()
        expect(dialog).to_have_count(0)
        self.page.wait_for_function(_RESTARTED)
        self.wait_for_kernel()

    def theme(self, name: str) -> None:
        """Have the theme "light" or "dark"."""
        self.command("apputils:change-theme", theme=THEMES[name])
        self.page.locator(f"body[data-jp-theme-name='{THEMES[name]}']").wait_for(state="attached")
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)

    def resize(self, width: int, height: int = VIEWPORT["height"]) -> None:
        """Give the page this size, in pixels."""
        self.page.set_viewport_size({"width": width, "height": height})

    def shot(self, name: str) -> None:
        """Take a picture of the page, build/shots/NAME-APP.png."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}-{self.server.app}.png")

    def picture(self, part: Locator, name: str) -> None:
        """Take a picture of a part of the page, build/shots/NAME-APP.png."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        part.screenshot(path=SHOTS / f"{name}-{self.server.app}.png", animations="disabled")

    def _answer(self, dialog: Dialog) -> None:
        if dialog.type == "beforeunload":
            dialog.accept()
        else:
            self.dialogs.append(dialog.message)
            dialog.dismiss()

    def _keep_error(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)
