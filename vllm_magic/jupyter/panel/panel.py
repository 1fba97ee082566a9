"""``%vllm panel`` and `vllm_magic.panel`: the one panel of a kernel, with its widget and its controller."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from vllm_magic.jupyter.panel import messages, view_state
from vllm_magic.jupyter.panel.background_work import Work
from vllm_magic.jupyter.panel.controller import Controller
from vllm_magic.jupyter.panel.messages import Request, RequestKind
from vllm_magic.jupyter.panel.widget import PanelWidget, is_closed, receive_beside_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.commands.settings import Settings
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.status import ServerStatus


class Panel:
    """The panel of a kernel. It can be displayed several times; all its views show the same.

    `comm`, `get_state` and `set_state` are those of its widget. ``mo.ui.anywidget`` needs them to show the widget
    (marimo 0.25, ``_plugins/ui/_impl/from_anywidget.py``).

    Args:
        manager: the manager of the kernel.
        settings: returns the settings for a start.
        grace: returns the grace period for a stop, in seconds; None for the default.
        is_busy: returns whether a cell runs now.
        session: the session to which the panel belongs; None for the panel of the whole kernel.
        greets_late: whether the first request of a view waits for all cells that are to run. The panel then counts as open
            before this request, since a view that gets no message for some seconds shows the kernel as dead.
    """

    def __init__(
        self,
        manager: Manager,
        settings: Callable[[], Settings],
        grace: Callable[[], float | None],
        is_busy: Callable[[], bool],
        session: threading.Thread | None = None,
        *,
        greets_late: bool = False,
    ) -> None:
        self._manager = manager
        self._greets_late = greets_late
        self._work = Work(manager, settings, grace, session)
        self._cell_thread = session or threading.main_thread()
        self._is_busy = is_busy
        self._widget: PanelWidget | None = None
        self._controller: Controller | None = None

    def __repr__(self) -> str:
        return view_state.static_text(self._status(), None)

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the live panel, and its present state for a saved notebook or a front end without widgets.

        The second part is the metadata of the widget, with which Google Colab finds the program that draws it.
        """
        servers = self._status()
        now = self._manager.latest if servers else None
        shown, metadata = cast("tuple[dict[str, Any], dict[str, Any]]", self._open()._repr_mimebundle_())
        static = {
            "text/html": view_state.static_html(servers, now),
            "text/plain": view_state.static_text(servers, now),
        }
        return {**shown, **static}, metadata

    def _status(self) -> list[ServerStatus]:
        return [server.status for server in self._manager.servers().values()]

    @property
    def comm(self) -> Any:
        """The connection of the widget to its views."""
        return self._open().comm

    @property
    def _model_id(self) -> str:
        return str(self._open().model_id)

    def get_state(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the values of the widget's traits."""
        state: dict[str, Any] = self._open().get_state(*args, **options)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Set traits of the widget. The views of the panel never request this."""
        self._open().set_state(state)

    def close(self) -> None:
        """Remove the widget from the screen; the servers run on. The next display of the panel makes a new widget."""
        controller, self._controller = self._controller, None
        widget, self._widget = self._widget, None
        if controller is not None:
            controller.close()
        if widget is not None:
            widget.layout.close()
            widget.close()

    def _open(self) -> PanelWidget:
        """Return the widget; make a new one if there is none, or if it was closed."""
        if self._widget is not None and not is_closed(self._widget):
            return self._widget
        self.close()  # marimo closes a widget when the cell that made the widget runs again
        widget = PanelWidget()
        receive_beside_cells(widget)
        self._controller = Controller(self._manager, widget, self._work, self._is_busy)
        widget.on_msg(self._on_message)
        if self._greets_late:
            self._controller.post(Request(RequestKind.HEARTBEAT))
        self._widget = widget
        return widget

    def _on_message(self, _widget: object, content: object, _buffers: object) -> None:
        concurrent = threading.current_thread() is not self._cell_thread
        request = messages.read(content, concurrent=concurrent)
        if request is not None and self._controller is not None:
            self._controller.post(request)
