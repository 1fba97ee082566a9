"""What a server tells of its work: Prometheus text into numbers, and what a person sees of them."""

from __future__ import annotations

import threading

import httpx
import pytest

from vllm_magic import background
from vllm_magic.engine.client.health import Api
from vllm_magic.errors import RequestFailed, VllmMagicError

LIMIT = 30.0  # seconds for an answer on a busy machine; far less than the window


def test_of_a_server(manager, spec):
    server = manager.start(spec(), timeout=60).server
    header = {"Authorization": f"Bearer {server.api_key}"}
    body = {"model": server.model, "prompt": "Once", "max_tokens": 8}
    with httpx.Client(trust_env=False) as client:
        assert client.post(f"{server.base_url}/completions", json=body, headers=header).status_code == 200
    found = server.metrics(window=0.1)
    assert (found.running, found.finished, found.generation_tokens) == (0, 1, 8)
    assert found.ttft.count == 1
    assert found.window >= 0.1
    assert found.generation_rate == 0.0
    manager.stop()
    with pytest.raises(VllmMagicError, match="tiny takes no requests any more: it is released"):
        server.metrics()


def test_the_window_ends_with_the_server(manager, spec, monkeypatch):
    server = manager.start(spec(), timeout=60).server
    ask, has_asked = Api.metrics, threading.Event()

    def metrics(api: Api):
        found = ask(api)
        has_asked.set()
        return found

    monkeypatch.setattr(Api, "metrics", metrics)
    rates = background.call(lambda: server.metrics(window=3600), lambda: None)
    assert has_asked.wait(LIMIT)
    manager.stop()
    with pytest.raises(RequestFailed, match="tiny takes no requests any more"):
        rates.result(LIMIT)
