"""Programs that print without end, while a cell waits for them: what is kept of their output."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from vllm_magic.children import benchmark, pull
from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import VllmMagicError

LINES = 20_000
LONG = "x" * 500
MOST = 6 * 2**20  # bytes


class Chatty:
    """In place of a child process: prints many lines, and fails."""

    line = staticmethod(lambda number: f"{number} {LONG}")

    def __init__(self, *_, **__):
        pass

    def lines(self, _pause):
        for number in range(LINES):
            yield [self.line(number)]

    def exit_code(self):
        return 1

    def close(self):
        pass


@pytest.fixture
def peak():
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_of_a_benchmark_the_last_lines_are_kept(monkeypatch, peak):
    monkeypatch.setattr(benchmark, "ChildProcess", Chatty)
    with pytest.raises(VllmMagicError, match=f"exit code 1.: {LINES - 1} "):
        benchmark.run(
            ServerSpec("m"), Command(("vllm", "serve"), Endpoint("127.0.0.1", 1, "a-key")), (), lambda: None
        )
    assert peak() < MOST


def test_of_a_download_only_what_belongs_to_it_is_kept(monkeypatch, peak):
    monkeypatch.setattr(pull, "ChildProcess", Chatty)
    monkeypatch.setattr(Chatty, "line", staticmethod(lambda number: json.dumps({f"{number} {LONG}": 1})))
    with pytest.raises(VllmMagicError, match="the download ended without a message"):
        pull.pull("some/model")
    assert peak() < MOST
