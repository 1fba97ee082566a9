"""Calls that may take seconds, in threads of their own: whoever has begun one can do other things, or leave it.

Such a thread shares no state: it gets a function, and what that returns is in a future. One that nobody waits for any more
goes on until its function ends, so that must end by itself, as each request of `engine.exchange` does.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
LOOK = 0.05  # seconds


def call(function: Callable[[], _T], done: Callable[[], None]) -> Future[_T] | None:
    """Call a function in a thread.

    Args:
        function: is called there.
        done: is called there too, once the future is done.

    Returns:
        Its future; None where there is no thread to be had.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - it is raised where the result is taken
            future.set_exception(error)
        done()

    try:
        threading.Thread(target=run, name="vllm-magic background", daemon=True).start()
    except RuntimeError:  # can't start new thread
        return None
    return future


def call_unless(cancelled: threading.Event, function: Callable[[], _T]) -> _T | None:
    """What a function returns, or raises; None as soon as ``cancelled`` is set."""
    future = call(function, lambda: None)
    if future is None:
        return function()
    while not future.done():
        if cancelled.wait(LOOK):
            return None
    return future.result()
