"""The one panel of this kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vllm_magic.jupyter.commands.settings import NO_SETTINGS, Settings
from vllm_magic.jupyter.panel.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

_open: _Opened | None = None


def panel() -> Panel:
    """Return the panel of this kernel, which shows and controls its servers; it can be displayed several times.

    A start from the panel uses ``%config VllmMagics`` where the extension is loaded.
    """
    global _open  # noqa: PLW0603 - one panel for each kernel
    if _open is None:
        _open = _Opened()
    return _open.panel


def close() -> None:
    """Close the panel; do nothing where there is none."""
    global _open
    opened, _open = _open, None
    if opened is not None:
        opened.close()


class _Opened:
    """The panel and its connections to the shell."""

    def __init__(self) -> None:
        from IPython.core.getipython import get_ipython

        from vllm_magic.manager.manager import manager

        self._shell = cast("Any", get_ipython())
        self._busy = self._shell is not None  # a cell opens the panel
        for event, hook in self._hooks():
            self._shell.events.register(event, hook)
        self.panel = Panel(manager, self._settings, self._grace, lambda: self._busy)

    def close(self) -> None:
        for event, hook in self._hooks():
            self._shell.events.unregister(event, hook)
        self.panel.close()

    def _hooks(self) -> list[tuple[str, Callable[..., None]]]:
        if self._shell is None:
            return []
        return [("pre_run_cell", self._cell_begins), ("post_run_cell", self._cell_ends)]

    def _cell_begins(self, *_: object) -> None:
        self._busy = True

    def _cell_ends(self, *_: object) -> None:
        self._busy = False

    def _magics(self) -> Any:
        return self._shell and self._shell.magics_manager.registry.get("VllmMagics")

    def _settings(self) -> Settings:
        magics = self._magics()
        return magics.settings if magics else NO_SETTINGS

    def _grace(self) -> float | None:
        magics = self._magics()
        return magics.grace if magics else None
