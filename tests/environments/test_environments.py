"""A server from `%load_ext` to its end, in a kernel of each environment, with the stand-in for vLLM."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import checkpoints
import pytest
from packaging.version import Version

from environments import results
from environments.catalog import ALL, COLAB, KAGGLE, NEWEST, OLDEST, TESTED
from environments.kernels import WIDGET, kernel
from environments.make import RECORD, is_made

if TYPE_CHECKING:
    from collections.abc import Iterator

    from environments.catalog import Environment
    from environments.kernels import Kernel

QUESTION = "Tell me a story."
# `make compatibility` tries all those that could be made.
TRIED = filter(is_made, ALL.values()) if os.environ.get("ENVIRONMENTS") == "made" else TESTED


@pytest.fixture(params=list(TRIED), ids=lambda one: one.name)
def environment(request) -> Environment:
    """An environment that was made."""
    assert is_made(request.param), f"{request.param.name} is not there: make environments TIERS=environments"
    return request.param


@pytest.fixture
def running(environment, home, executable, tmp_path, monkeypatch) -> Iterator[Kernel]:
    """A kernel of this environment, which has loaded the extension and finds the stand-in."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checkpoints.model(tmp_path / "tiny", checkpoints.LLAMA_3_8B)  # in the kernel's working directory
    with kernel(environment, tmp_path) as found:
        results.environment(environment)
        found.run("%load_ext vllm_magic")
        results.passed(environment, "load")
        yield found


def record(environment: Environment) -> dict:
    """What `make.py` recorded of it."""
    return json.loads((environment.folder / RECORD).read_text())


@pytest.mark.parametrize("hosted", [COLAB, KAGGLE], ids=lambda one: one.name)
def test_an_install_upgrades_nothing(hosted):
    """A kernel that runs would go on with half of the old packages, and Colab's could not start again."""
    made = record(hosted)
    assert made["before"].items() <= made["after"].items()
    assert made["before"]["ipython"] == "7.34.0"
    assert set(made["after"]) - set(made["before"]) == {"vllm-magic"}


def test_the_oldest_and_the_newest():
    oldest, newest = record(OLDEST)["after"], record(NEWEST)["after"]
    assert (oldest["ipython"], oldest["ipywidgets"], oldest["traitlets"]) == ("7.34.0", "7.7.1", "5.7.1")
    assert Version(newest["ipython"]) >= Version("8.6")


def test_a_server(environment, running, traces):
    ready = running.run("server = %vllm start tiny --name one\nprint(server.state.value)")
    assert "ready" in ready.text
    results.passed(environment, "start")
    assert "tokens/s" in running.run(f"%%vllm --max-tokens 8\n{QUESTION}").text
    streamed = running.run(
        f"for part in server.chat({QUESTION!r}, max_tokens=8, stream=True): print(part, end='')"
    )
    assert streamed.text.strip()
    results.passed(environment, "ask")
    (data, metadata) = running.run("%vllm panel").bundles[-1]
    assert data[WIDGET]["model_id"]
    assert "one" in data["text/html"]
    if environment.hosted == "colab":  # without it, Colab shows no widget that is not its own
        assert metadata[WIDGET]["colab"]["custom_widget_manager"]["url"]
    results.passed(environment, "panel")
    assert "%vllm stop" in running.complete("%vllm sto")
    assert running.complete("%vllm logs o") == ["%vllm logs one"]
    results.passed(environment, "completion")
    assert "released in" in running.run("%vllm stop").text
    traces.check()
    results.passed(environment, "stop")


def test_a_restart_and_a_killed_kernel(environment, running, traces):
    running.run("%vllm start tiny")
    running.restart()
    traces.wait()
    running.run("%load_ext vllm_magic")
    running.run("%vllm start tiny")
    running.kill()
    traces.wait()
    results.passed(environment, "kernel death")
