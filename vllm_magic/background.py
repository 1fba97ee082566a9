"""Calls that may take seconds, each in a thread of its own, so that the caller does not have to wait.

The thread calls a function, and a future holds the result; there is no other shared state. A thread cannot be cancelled: it
runs until its function returns, so the function must have a time limit, as each request of `engine.client.exchange` has.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_T = TypeVar("_T")
CHECK_INTERVAL = 0.05  # seconds between checks of the future


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
    """Return the result of a function, which is called in a new thread if this is the main thread.

    This is for functions that hold a lock for longer than a moment. Python runs the signal handlers of the program in the main
    thread. So the main thread would hold the lock while a handler runs, and the handler may wait for a thread that needs the
    lock. An interrupt ends the wait, and not the function.

    An error of the function is raised here. If no thread can be started, the function is called in this thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    future = call(function, lambda: None)
    return function() if future is None else future.result()


def with_lock(lock: AbstractContextManager[object], function: Callable[[], _T]) -> _T:
    """Return the result of a function that is called with the lock held. The main thread never holds it: `off_main_thread`."""

    def call_locked() -> _T:
        with lock:
            return function()

    return off_main_thread(call_locked)


def call_unless(cancelled: Callable[[float], bool], function: Callable[[], _T]) -> _T | None:
    """Return the result of a function that is called in a new thread; None as soon as the call is cancelled.

    An error of the function is raised here. If no thread can be started, the function is called in this thread, and
    ``cancelled`` has no effect.

    Args:
        cancelled: waits for the given number of seconds at most, and returns whether the call is cancelled.
        function: the function to call.
    """
    future = call(function, lambda: None)
    if future is None:
        return function()
    while not future.done():
        if cancelled(CHECK_INTERVAL):
            return None
    return future.result()
