"""The panel as a widget: one model, whose views are drawn by the modules in ``front/`` (our own; nothing is fetched)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

FRONT = Path(__file__).with_name("front")
# In the order of their floors: they are one module for the browser, which takes no relative imports from a kernel.
MODULES = (
    "dom",
    "charts",
    "heartbeat",
    "servers",
    "form",
    "start",
    "gpus",
    "tiles",
    "ending",
    "log",
    "processes",
    "chat",
    "doctor",
    "tabs",
    "panel",
)


def script() -> str:
    """The whole module."""
    return "\n".join((FRONT / f"{name}.js").read_text(encoding="utf-8") for name in MODULES)


class PanelWidget(anywidget.AnyWidget):
    """What a notebook shows. Its thread (`controller`) is the only one that sets the trait and sends."""

    _esm = script()
    _css = (FRONT / "panel.css").read_text(encoding="utf-8")
    picture = traitlets.Dict().tag(sync=True)

    def show(self, drawn: dict[str, Any]) -> None:
        """Replace the picture."""
        self.picture = drawn


def hear_beside_cells(widget: PanelWidget) -> None:
    """Let the widget's messages come on a subshell, beside the cell that runs.

    ipykernel 7.4 sends them to the shell that the widget was made in (``BaseComm._reply_subshell_for``): to the main
    one, where they wait for the cell. Without that method it goes by what the front end wants, as 7.1 and 7.3 do.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = None  # noqa: SLF001
