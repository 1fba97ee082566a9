"""A program's own signal handler may use vllm_magic, also while the main thread is in the middle of a call of it."""

from __future__ import annotations

import signal
import threading

import each_line
import pytest

from vllm_magic import masking
from vllm_magic.engine import free_port
from vllm_magic.linux import forks, lookups
from vllm_magic.provisioning.standby_pool import StandbyMode


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


@pytest.mark.timeout(300, method="signal")
def test_the_main_thread_holds_nothing_that_the_thread_of_a_server_needs(manager, spec, traces, monkeypatch):
    """Where it is interrupted, a handler may wait for the end of a server, in the middle of each line of this package."""
    monkeypatch.setattr(forks, "START_LIMIT", 0.2)
    monkeypatch.setattr("vllm_magic.monitoring.sampler.LOCK_LIMIT", 0.2)
    other = manager.start(spec(name="other"), timeout=60).server
    manager.spares.set_mode(StandbyMode.ON)

    def use() -> None:
        server = manager.start(spec(name="first"), timeout=60).server
        manager.expect(server.spec)
        manager.servers()
        server.metrics(0.0)
        server.log(5)
        server.plot()._repr_html_()
        manager.recent_gpus()
        manager.spares.set_mode("off")
        assert manager.stop("first").verified

    def needed() -> None:
        """What the thread of a server does from its launch to its end, as far as it shares that with others."""
        if threading.current_thread() is threading.main_thread():
            manager.servers()
            assert other.state == "ready"
        masking.remember("some-key-of-a-handler")
        lookups.within(20.0, "a name", int)
        free_port.choose("127.0.0.1")
        manager.spares.status()
        manager.probe.snapshot()
        manager._server_changed(other._run)
        for one in manager._registry.all():
            one._run.lifecycle.stages()

    assert each_line.run(use, needed) > 100
    assert manager.stop("other").verified
    traces.check()
