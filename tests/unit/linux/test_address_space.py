"""A read that ends in the moment in which its time is over."""

from __future__ import annotations

import os
import threading

import pytest

from vllm_magic.linux import address_space

LIMIT = 10.0  # seconds
BEFORE_THE_CALLER_GIVES_UP, AFTERWARDS = "before the caller gives up", "afterwards"


class Hanging(dict):
    """Lets the read end when the caller gives up, and lets the thread see that the caller waits, or that it does not."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.may_end = threading.Event()
        self.has_looked = threading.Event()

    def __setitem__(self, reader, pid) -> None:
        if self.order == AFTERWARDS:
            super().__setitem__(reader, pid)
        self.may_end.set()
        assert self.has_looked.wait(LIMIT)
        if self.order == BEFORE_THE_CALLER_GIVES_UP:
            super().__setitem__(reader, pid)

    def pop(self, reader, default=None):
        found = super().pop(reader, default)
        self.has_looked.set()
        return found


@pytest.mark.parametrize("order", [BEFORE_THE_CALLER_GIVES_UP, AFTERWARDS])
def test_the_content_is_returned_and_no_thread_is_lost(monkeypatch, order):
    hanging = Hanging(order)

    def content(path: str, most: int) -> bytes:
        assert hanging.may_end.wait(LIMIT)
        return b"content"

    monkeypatch.setattr(address_space, "_idle", idle := type(address_space._idle)())
    monkeypatch.setattr(address_space, "_hanging", hanging)
    monkeypatch.setattr(address_space, "_content", content)
    monkeypatch.setattr(address_space, "READ_LIMIT", 0.01)
    monkeypatch.setattr(address_space, "IDLE_LIMIT", 0.2)
    before = set(threading.enumerate())
    assert address_space.read(os.getpid(), "/proc/self/environ") == b"content"
    assert not hanging
    assert len(idle) == (order == BEFORE_THE_CALLER_GIVES_UP)
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
        assert not thread.is_alive()
