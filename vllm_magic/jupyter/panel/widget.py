"""The panel as a widget: one model, whose views are drawn by the modules in ``front/`` (our own; nothing is downloaded)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

FRONT = Path(__file__).with_name("front")
# In the order of their dependencies. They are joined to one module: a browser cannot import files from a kernel.
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
    """Return the joined module."""
    return "\n".join((FRONT / f"{name}.js").read_text(encoding="utf-8") for name in MODULES)


class PanelWidget(anywidget.AnyWidget):
    """The widget that a notebook shows. Only the controller's thread sets its trait and sends its messages."""

    _esm = script()
    _css = (FRONT / "panel.css").read_text(encoding="utf-8")
    picture = traitlets.Dict().tag(sync=True)

    def show(self, drawn: dict[str, Any]) -> None:
        """Replace the trait ``picture``."""
        self.picture = drawn


def receive_beside_cells(widget: PanelWidget) -> None:
    """Let the widget's messages arrive on a subshell while a cell runs.

    ipykernel 7.4 sends them to the shell in which the widget was made (``BaseComm._reply_subshell_for``): the main shell,
    where they wait for the end of the cell. Without that method, ipykernel uses the subshell that the front end names,
    as 7.1 and 7.3 do.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = None  # noqa: SLF001
