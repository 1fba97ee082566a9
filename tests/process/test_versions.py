"""Other versions of vLLM, as the stand-in writes and answers in their place."""

from __future__ import annotations

import os

import pytest

from vllm_magic.errors import RequestFailed

LIMIT = 60.0  # seconds for what takes less than one
OLD = ["0.12.0", "0.15.1", "0.20.2"]


@pytest.mark.parametrize("version", OLD)
def test_the_life_of_a_server(manager, spec, version, traces):
    server = manager.start(spec(faults={"version": version}), timeout=LIMIT).server
    assert server.complete("one two", max_tokens=2).text
    with pytest.raises(RequestFailed, match="gives no embeddings"):
        server.embed("a")
    shown = server.log(100)
    assert any("Starting vLLM server" in line for line in shown)
    assert not [line for line in shown if "GET /health" in line or "\x1b" in line]
    os.kill(server.pid, 15)
    assert server._run.wait_over(LIMIT)
    assert server.error.cause == "Somebody else asked it to end (SIGTERM or SIGINT)"
    traces.check()


@pytest.mark.parametrize("ask", ["chat", "complete"])
def test_a_stream_from_a_model_that_does_not_generate(manager, spec, ask):
    server = manager.start(spec(faults={"version": "0.15.1", "task": "embed"}), timeout=LIMIT).server
    with pytest.raises(RequestFailed, match="generates no text"):
        getattr(server, ask)("a")


def test_a_worker_that_is_killed(manager, spec):
    dying = {"who": "worker", "when": "ready", "signal": 9, "after_s": 2.0}
    server = manager.start(spec(faults={"version": "0.20.2", "die": dying}), timeout=LIMIT).server
    assert server._run.wait_over(LIMIT)
    assert server.error.cause == "The worker Worker ended, and vLLM does not say why"
