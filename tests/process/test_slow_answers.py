"""Whoever answers a byte at a time holds nobody up: not a stop, not a start, and not a person who asks."""

from __future__ import annotations

import threading
import time

import pytest
from misbehaving import Misbehaving

from vllm_magic.engine.client import health
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import VllmMagicError

LIMIT = 60.0  # seconds after which something hangs
FOR_EVER = 600.0
DRIP = {"metrics_drip": True}


def stopped(server, **how):
    """Its release; a failure where the stop hangs."""
    releases = []
    stopping = threading.Thread(target=lambda: releases.append(server.stop(**how)), daemon=True)
    stopping.start()
    stopping.join(LIMIT)
    assert releases, "the stop hangs"
    return releases[0]


def until(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stranger_on_the_port_of_a_start(manager, spec, traces):
    """It is not even asked: what listens there is no process of the server's."""
    server = manager.start(spec(faults={"hang_in": "import"}), wait=False).server
    until(lambda: server.pid is not None)
    with Misbehaving("a body without end", server.port) as stranger:
        assert stranger.met.wait(LIMIT)
        time.sleep(0.5)
        assert server.state == "starting"
        assert stopped(server).verified
        assert stranger.heard == b""
    traces.check()


@pytest.fixture
def endless_looks(monkeypatch):
    """No look ends by itself, so that what waits for one hangs."""
    monkeypatch.setattr(health, "ANSWER_LIMIT", FOR_EVER)


@pytest.mark.usefixtures("endless_looks")
def test_a_look_at_the_use_of_a_server(manager, spec, traces):
    server = manager.start(spec(ttl=1.0, faults=DRIP), timeout=LIMIT).server
    until(lambda: server._run._supervisor._thread.is_alive() and looks() == 1)
    time.sleep(2)
    assert server.state == "ready"
    assert stopped(server).why == "asked"
    traces.check()


@pytest.mark.usefixtures("endless_looks")
def test_a_drain(manager, spec, traces):
    """It has its end though the server does not say what it does."""
    server = manager.start(spec(faults=DRIP), timeout=LIMIT).server
    release = stopped(server, drain=1.0)
    assert release.verified
    assert release.seconds >= 1.0
    traces.check()


@pytest.mark.usefixtures("endless_looks")
def test_a_stop_with_less_grace_hurries_a_drain(manager, spec):
    server = manager.start(spec(faults=DRIP), timeout=LIMIT).server
    draining = threading.Thread(target=lambda: server.stop(drain=FOR_EVER), daemon=True)
    draining.start()
    until(lambda: looks() == 1)
    assert stopped(server, grace=0).verified
    draining.join(LIMIT)
    assert not draining.is_alive()


def test_metrics_of_a_person(manager, spec, monkeypatch):
    monkeypatch.setattr(health, "ANSWER_LIMIT", 0.5)
    server = manager.start(spec(faults=DRIP), timeout=LIMIT).server
    with pytest.raises(VllmMagicError, match="tiny reports no metrics"):
        server.metrics()


def test_a_stop_while_the_head_of_a_cluster_is_asked(manager, executable, monkeypatch, traces):
    from vllm_magic.cluster import rest

    monkeypatch.setattr(rest, "RESPONSE_LIMIT", FOR_EVER)
    with Misbehaving("headers, a byte at a time") as head:
        server = manager.start(ServerSpec("tiny", executable=executable, cluster=head.url), wait=False).server
        assert head.met.wait(LIMIT)
        assert stopped(server).verified
    traces.check()


def looks() -> int:
    """How many looks are under way."""
    return sum(thread.name == "vllm-magic background" for thread in threading.enumerate())
