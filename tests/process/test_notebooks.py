"""Notebooks, run from top to bottom as a person would, on the stand-in."""

from __future__ import annotations

import checkpoints
import pytest
import stand_in
from notebook_runs import outputs


@pytest.fixture(autouse=True)
def models(home, tmp_path, monkeypatch) -> None:
    """Two models, and a vLLM for them."""
    for name, value in {
        "MODEL": str(checkpoints.model(tmp_path / "one-model", checkpoints.LLAMA_3_8B)),
        "OTHER_MODEL": str(checkpoints.model(tmp_path / "other-model", checkpoints.LLAMA_3_8B)),
        "VLLM_MAGIC_EXECUTABLE": str(stand_in.install_environment(tmp_path / "vllm")),
        "HF_HUB_OFFLINE": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)


def test_two_models(traces):
    _, _, fit, one, story, other, answer, metrics, status, stopped = outputs("two_models")
    assert "KV cache" in fit
    assert "one: ready" in one
    assert "tokens/s" in story
    assert "one released in" in other
    assert "tokens/s" in answer
    assert "1 finished" in metrics
    assert "other" in status
    assert "one" not in status.split()
    assert "other released in" in stopped
    assert "proved by" in stopped
    traces.wait()  # a spare ends with its kernel


def test_panel(traces):
    _, panel, server, story, stopped, plotted = outputs("panel")
    assert "No server runs" in panel
    assert "ready" in server
    assert "tokens/s" in story
    assert "released in" in stopped
    assert "VRAM" in plotted
    traces.wait()  # a spare ends with its kernel
