"""The views of a panel that somebody has open: who was heard of lately, and what they show."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.jupyter.panel.messages import Ask

if TYPE_CHECKING:
    from vllm_magic.jupyter.panel.messages import Message

EXPIRY = 20.0  # seconds without a word from a view after which it is taken for closed; it says one every 5 s


@dataclass(frozen=True)
class _View:
    seen: float
    tab: str


class OpenViews:
    """For one thread; false where nobody looks.

    Attributes:
        beside: whether requests are heard while a cell runs.
    """

    def __init__(self) -> None:
        self.beside = False
        self._views: dict[str, _View] = {}

    def __bool__(self) -> bool:
        return bool(self._views)

    def hear(self, message: Message) -> None:
        """A view has said something."""
        self.beside = message.beside  # the first ones of a view are not: its subshell is made meanwhile
        before = self._views.pop(message.view, None)
        if message.ask is not Ask.BYE:
            tab = message.tab or (before.tab if before else "")
            self._views[message.view] = _View(time.monotonic(), tab)

    def expire(self) -> None:
        """Forget those that were not heard of for too long: a page that is reloaded says no word."""
        now = time.monotonic()
        self._views = {name: view for name, view in self._views.items() if now - view.seen < EXPIRY}

    def leave(self) -> None:
        """Forget all of them."""
        self._views.clear()

    def looks_at(self, tab: str) -> bool:
        """Whether somebody has this tab open."""
        return any(view.tab == tab for view in self._views.values())
