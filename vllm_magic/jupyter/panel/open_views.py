"""The open views of a panel: the time of the last request of each view, and the tab that it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.jupyter.panel.messages import RequestKind

if TYPE_CHECKING:
    from vllm_magic.jupyter.panel.messages import Request

EXPIRY = 20.0  # seconds after the last request until a view counts as closed; it sends one every 5 s


@dataclass(frozen=True)
class _OpenView:
    last_request: float  # by `time.monotonic`
    tab: str


class OpenViews:
    """The open views; false if none is open. Only the controller's thread uses them.

    Attributes:
        concurrent: whether requests are received while a cell runs.
    """

    def __init__(self) -> None:
        self.concurrent = False
        self._views: dict[str, _OpenView] = {}

    def __bool__(self) -> bool:
        return bool(self._views)

    def note(self, request: Request) -> None:
        """Note a request of a view."""
        # False for the first requests of each view: the subshell of the view is not ready yet.
        self.concurrent = request.concurrent
        before = self._views.pop(request.view, None)
        if request.kind is not RequestKind.BYE:
            tab = request.tab or (before.tab if before else "")
            self._views[request.view] = _OpenView(time.monotonic(), tab)

    def expire(self) -> None:
        """Forget the views without a request for `EXPIRY` seconds: a page that is reloaded sends no "bye"."""
        oldest = time.monotonic() - EXPIRY
        self._views = {name: view for name, view in self._views.items() if view.last_request > oldest}

    def clear(self) -> None:
        """Forget all views."""
        self._views.clear()

    def any_shows(self, tab: str) -> bool:
        """Whether an open view shows this tab."""
        return any(view.tab == tab for view in self._views.values())
