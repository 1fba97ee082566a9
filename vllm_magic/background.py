"""Calls that may take seconds, each in a thread of its own, so that the caller need not wait for them.

The thread calls a function, and a future holds the result; there is no other shared state. A thread cannot be cancelled: it
runs until its function returns, so the function must have a time limit, as each request of `engine.client.exchange` has.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
LOOK = 0.05  # seconds between checks of the future


def call(function: Callable[[], _T], done: Callable[[], None]) -> Future[_T] | None:
    """Call a function in a new thread.

    Args:
        function: the function to call.
        done: called in the same thread, once the future is done.

    Returns:
        The future with the result of ``function``; None if no thread could be started.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again by Future.result
            future.set_exception(error)
        done()

    try:
        threading.Thread(target=run, name="vllm-magic background", daemon=True).start()
    except RuntimeError:  # can't start new thread
        return None
    return future


def off_main_thread(function: Callable[[], _T]) -> _T:
    """The result of a function, which is called in a new thread if this is the main one.

    For functions that hold a lock for longer than a moment. Python runs the signal handlers of the program in the main
    thread, so the main thread may keep a lock for as long as a handler runs, and the handler may wait for a thread that needs
    the lock. An interrupt ends the wait, and not the function.

    An error of the function is raised here. If no thread can be started, the function is called in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    future = call(function, lambda: None)
    return function() if future is None else future.result()


def call_unless(cancelled: Callable[[float], bool], function: Callable[[], _T]) -> _T | None:
    """The result of a function, called in a new thread; None as soon as it is cancelled.

    An error of the function is raised here. If no thread can be started, the function is called in this one, and
    ``cancelled`` has no effect.

    Args:
        cancelled: waits so many seconds at most, and returns whether it is cancelled.
        function: the function to call.
    """
    future = call(function, lambda: None)
    if future is None:
        return function()
    while not future.done():
        if cancelled(LOOK):
            return None
    return future.result()
