"""Look-ups of names that hang: nothing waits longer than the limit, and no second thread is started for the same name."""

from __future__ import annotations

import os
import pwd
import socket
import threading
import time

import pytest

from vllm_magic.engine import command
from vllm_magic.engine.address import resolve
from vllm_magic.engine.client import exchange
from vllm_magic.engine.client.exchange import UnreachableError
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import StartFailed
from vllm_magic.gpu import locks
from vllm_magic.linux import details, lookups

LIMIT = 0.2
LONG = 20.0  # seconds; far more than the limits


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(lookups, "HOST_LIMIT", LIMIT)
    monkeypatch.setattr(lookups, "USER_LIMIT", LIMIT)
    lookups.user.cache_clear()
    yield
    lookups.user.cache_clear()


@pytest.fixture
def hanging(monkeypatch):
    """Look-ups that hang until the end of the test; yields the names that are looked up."""
    asked: list[object] = []
    end = threading.Event()

    def hang(name, *_, **__):
        asked.append(name)
        end.wait(10 * LONG)
        raise KeyError(name)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(pwd, "getpwuid", hang)
    yield asked
    end.set()
    for thread in threading.enumerate():
        if thread.name == "vllm-magic look-up":
            thread.join(LONG)


def seconds_of(function) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def test_a_host(hanging):
    def look() -> None:
        with pytest.raises(TimeoutError, match=r"more than 0\.2 s"):
            resolve("gpu-box.example")

    assert LIMIT <= seconds_of(look) < LONG
    look()
    assert hanging == ["gpu-box.example"]  # the second one has waited for the first, whose time was over


def test_a_start(hanging, tmp_path):
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    with pytest.raises(StartFailed, match=r"gpu-box\.example"):
        command.build(ServerSpec("m", ("--host", "gpu-box.example"), executable=str(vllm)))


def test_a_request(hanging):
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        exchange.ask("GET", "http://gpu-box.example:8265/", LIMIT)
    assert time.monotonic() - began < LONG


def test_an_address_is_not_looked_up(monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    assert lookups.addresses("127.0.0.1", 80)[0].place == ("127.0.0.1", 80)
    assert lookups.addresses("::1", 80)[0].place[:2] == ("::1", 80)


def test_users(hanging):
    """A directory of users may hang too. Locks and lists of holders need the name of a user."""
    assert seconds_of(lambda: details.user(4711)) < LONG
    assert details.user(4711) == "4711"
    assert locks._home() is None
    assert hanging == [4711, os.getuid()]


def test_a_late_result_is_used_by_the_next_look_up(monkeypatch):
    go, done = threading.Event(), threading.Event()

    def late(*_, **__):
        go.wait(LONG)
        done.set()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", late)
    with pytest.raises(TimeoutError):
        resolve("gpu-box.example")
    go.set()
    assert done.wait(LONG)
    for thread in threading.enumerate():
        if thread.name == "vllm-magic look-up":
            thread.join(LONG)
    assert resolve("gpu-box.example") == "192.0.2.7"


def test_the_error_of_a_look_up_is_raised():
    def fails() -> None:
        raise KeyError("nobody")

    for _ in range(2):
        with pytest.raises(KeyError, match="nobody"):
            lookups.within(LONG, "x", fails)


def test_no_thread_can_be_started(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="can't start new thread"):
            resolve("gpu-box.example")
