"""A signal handler of the program that runs in the middle of a call: before each line of its code, once.

Python runs such a handler in the main thread, between two instructions of whatever runs there. If the interrupted call holds
a lock, then neither the handler nor a thread for which the handler waits gets this lock.
"""

from __future__ import annotations

import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import vllm_magic

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

PACKAGE = str(Path(vllm_magic.__file__).parent)
LIMIT = 20.0  # seconds for the other thread; it takes milliseconds


def run(call: Callable[[], object], handler: Callable[[], object], *files: str) -> int:
    """Call a function; before each line run the handler in this thread, and then in another one.

    Args:
        call: the function.
        handler: what a handler, and a thread for which it waits, may do.
        files: the beginnings of the paths of the code that is interrupted; without any the package.

    Returns:
        The number of lines that were interrupted.

    Raises:
        AssertionError: the other thread waits for what the interrupted line holds.
    """
    seen: set[tuple[CodeType, int]] = set()
    stuck: list[str] = []
    names = files or (PACKAGE,)
    wanted: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[object] = queue.SimpleQueue()

    def work() -> None:
        while one := wanted.get():
            done.put(one())

    def enter(frame: FrameType, *_: object) -> Callable[..., object] | None:
        return at_line if frame.f_code.co_filename.startswith(names) else None

    def at_line(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        place = frame.f_code, frame.f_lineno
        if event == "line" and place not in seen and not stuck:
            seen.add(place)
            handler()
            wanted.put(handler)
            try:
                done.get(timeout=LIMIT)
            except queue.Empty:
                stuck.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return at_line

    threading.Thread(target=work, daemon=True).start()
    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
        wanted.put(None)
    assert not stuck, f"another thread has to wait while a signal handler runs before {stuck[0]}"
    return len(seen)
