"""The panel as a widget: one model, whose views are drawn by the JavaScript in ``front/``. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

FRONT = Path(__file__).with_name("front")


def script() -> str:
    """Return the files of ``front/``, joined into one module: a browser cannot import files from a kernel."""
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(FRONT.glob("*.js")))


class PanelWidget(anywidget.AnyWidget):
    """The widget that a notebook shows: the `ViewChannel` of the controller."""

    _esm = script()
    _css = (FRONT / "panel.css").read_text(encoding="utf-8")
    view_state = traitlets.Dict().tag(sync=True)

    def set_view_state(self, state: dict[str, Any]) -> None:
        """Replace the trait ``view_state``."""
        self.view_state = state


def is_closed(widget: PanelWidget) -> bool:
    """Whether the front end has closed the connection of the widget (``_closed`` in `comm` and in marimo)."""
    return bool(getattr(widget.comm, "_closed", False))


def receive_beside_cells(widget: PanelWidget) -> None:
    """Let a subshell receive the widget's messages, so that they need not wait for the end of a cell.

    ipykernel 7.4 delivers them in the shell in which the widget was made (``BaseComm._reply_subshell_for``): the main shell,
    which runs the cells. Without that method, ipykernel uses the subshell that the front end names, as 7.1 and 7.3 do.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = None  # noqa: SLF001
