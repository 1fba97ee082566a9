"""The open views of a panel: when each sent its last request, and which tab it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.jupyter.panel.messages import RequestKind

if TYPE_CHECKING:
    from vllm_magic.jupyter.panel.messages import Message

EXPIRY = 20.0  # seconds without a request after which a view counts as closed; a view sends one every 5 s


@dataclass(frozen=True)
class _OpenView:
    seen: float
    tab: str


class OpenViews:
    """The open views; false where none is open. Only the controller's thread uses them.

    Attributes:
        beside: whether requests arrive while a cell runs.
    """

    def __init__(self) -> None:
        self.beside = False
        self._views: dict[str, _OpenView] = {}

    def __bool__(self) -> bool:
        return bool(self._views)

    def note(self, message: Message) -> None:
        """Note a request of a view."""
        self.beside = message.beside  # false for a view's first requests: its subshell is not ready yet
        before = self._views.pop(message.view, None)
        if message.ask is not RequestKind.BYE:
            tab = message.tab or (before.tab if before else "")
            self._views[message.view] = _OpenView(time.monotonic(), tab)

    def expire(self) -> None:
        """Forget the views without a request for `EXPIRY` seconds: a page that is reloaded sends no "bye"."""
        now = time.monotonic()
        self._views = {name: view for name, view in self._views.items() if now - view.seen < EXPIRY}

    def leave(self) -> None:
        """Forget all views."""
        self._views.clear()

    def any_shows(self, tab: str) -> bool:
        """Whether an open view shows this tab."""
        return any(view.tab == tab for view in self._views.values())
