"""A start that failed since another process gave memory back while vLLM measured it: it is repeated once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stand_in.options import VARIABLE

from vllm_magic.errors import StartFailed

LIMIT = 120
MEASURED = (
    "AssertionError: Error in memory profiling. Initial free memory 82.94 GiB, current free memory 90.17 GiB. "
    "This happens when other processes sharing the same container release GPU memory while vLLM is profiling"
)
FAULT = {"die": {"who": "engine", "when": "init", "says": [f"(EngineCore pid=77) {MEASURED}"]}}
NEWS = (
    "m did not start: Another process gave back GPU memory while vLLM measured it: 82.94 GiB were free, then 90.17 GiB. "
    "It is started once more."
)


@pytest.fixture
def fails(executable, tmp_path):
    """Return a function that makes an executable whose first starts fail so: ``fails(1)``."""

    def make(times: int) -> str:
        path = tmp_path / "vllm"
        counted = tmp_path / "starts"
        path.write_text(
            f"#!/bin/sh\necho >> {counted}\n"
            f"[ $(wc -l < {counted}) -gt {times} ] || export {VARIABLE}='{json.dumps(FAULT)}'\n"
            f'exec {executable} "$@"\n'
        )
        path.chmod(0o755)
        return str(path)

    return make


def starts(executable: str) -> int:
    return len(Path(executable).with_name("starts").read_text().splitlines())


def test_the_second_start_succeeds(manager, spec, fails, traces):
    executable, seen = fails(1), set()
    server = manager.start(
        spec("m", executable=executable), timeout=LIMIT, report=lambda server: seen.add(server.state.value)
    ).server
    assert server.chat("hello", max_tokens=2).text
    assert seen <= {"starting", "ready"}
    assert manager.news() == [NEWS]
    assert server.stop().verified
    assert starts(executable) == 2
    traces.check()


def test_there_is_no_third_start(manager, spec, fails, traces):
    executable = fails(3)
    with pytest.raises(StartFailed, match="Another process gave back GPU memory"):
        manager.start(spec("m", executable=executable), timeout=LIMIT)
    assert manager.news() == [NEWS]
    assert (starts(executable), manager.get().state) == (2, "failed")
    manager.stop()
    traces.check()
