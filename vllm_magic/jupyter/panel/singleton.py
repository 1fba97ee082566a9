"""The panel of this kernel. In a process with several sessions (`manager.sessions`), each session has a panel."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from vllm_magic.engine.models import hosted_token
from vllm_magic.jupyter.commands.settings import NO_SETTINGS, Settings
from vllm_magic.jupyter.panel.panel import Panel

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

_panels: dict[threading.Thread | None, _ConnectedPanel] = {}  # by the session


def panel() -> Panel:
    """Return the panel of this kernel, which shows and controls its servers; it can be displayed several times.

    If the extension is loaded, a start from the panel uses ``%config VllmMagics``. In marimo the panel is a widget:
    ``mo.ui.anywidget(vllm_magic.panel())``.
    """
    from vllm_magic.manager import sessions
    from vllm_magic.manager.manager import manager

    session = sessions.current()
    if session not in _panels:
        _panels[session] = _ConnectedPanel(session)
        if session is not None:
            manager.sessions.at_end(session, partial(close, session))
    return _panels[session].panel


def close(session: threading.Thread | None = None) -> None:
    """Close the panel of this session, if there is one; None for the panel of the whole kernel."""
    connected = _panels.pop(session, None)
    if connected is not None:
        connected.close()


class _ConnectedPanel:
    """A panel with its connections to the shell, or to marimo."""

    def __init__(self, session: threading.Thread | None) -> None:
        from IPython.core.getipython import get_ipython

        from vllm_magic.manager.manager import manager

        hosted_token.load(None, os.environ)  # in a cell: a start from the panel cannot ask for it
        self._shell = cast("Any", get_ipython())
        self._busy = self._shell is not None  # a cell opens the panel
        for event, hook in self._hooks():
            self._shell.events.register(event, hook)
        marimo_is_busy = _marimo_is_busy()
        self.panel = Panel(
            manager,
            self._settings,
            self._grace,
            marimo_is_busy or (lambda: self._busy),
            session,
            greets_late=marimo_is_busy is not None,
        )

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


def _marimo_is_busy() -> Callable[[], bool] | None:
    """Return a function that returns whether a cell of this marimo session runs; None outside of marimo.

    marimo has no public function for this: 0.25 sets the context's ``execution_context`` while a cell runs
    (``Kernel._install_execution_context``).
    """
    marimo = sys.modules.get("marimo")
    if marimo is None or not marimo.running_in_notebook():
        return None
    context = sys.modules["marimo._runtime.context.types"].get_context()
    return lambda: getattr(context, "execution_context", None) is not None
