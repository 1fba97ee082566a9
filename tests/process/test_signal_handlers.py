"""A program's own signal handler may use vllm_magic, also while the main thread is in the middle of a call of it."""

from __future__ import annotations

import signal
import threading

import pytest


@pytest.fixture
def inside(monkeypatch):
    """Have a signal's handler run in the main thread while it holds the lock of an object: ``inside(owner, lock, call)``."""
    before = signal.getsignal(signal.SIGUSR1)

    def run(owner, lock: str, call) -> threading.Event:
        done = threading.Event()

        def handler(*_) -> None:
            call()
            done.set()

        signal.signal(signal.SIGUSR1, handler)
        with getattr(owner, lock):
            signal.raise_signal(signal.SIGUSR1)
        return done

    yield run
    signal.signal(signal.SIGUSR1, before)


LOCKS = {
    "registry": lambda manager, _: (manager._registry, "_lock"),
    "lifecycle": lambda _, server: (server._run.lifecycle, "_lock"),
    "wake": lambda _, server: (server._run._supervisor._cancelled.wake, "_lock"),
    "sampler": lambda manager, _: (manager._sampler, "_lock"),
}


@pytest.mark.timeout(60, method="signal")  # which ends a wait of the main thread for itself
@pytest.mark.parametrize("lock", LOCKS)
def test_a_handler_looks_and_stops(manager, spec, traces, inside, lock):
    server = manager.start(spec(), timeout=60).server

    def call() -> None:
        assert manager.servers() == {"tiny": server}
        assert server.state == "ready"
        assert manager.stop("tiny").verified
        assert manager.servers() == {}

    owner, name = LOCKS[lock](manager, server)
    assert inside(owner, name, call).is_set()
    assert server.state == "released"
    traces.check()
