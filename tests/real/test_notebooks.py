"""The notebooks, run from top to bottom as a person would, on the real vLLM."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from tests.real.environment import environment

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600), pytest.mark.xdist_group("vllm-beside")]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CELL_LIMIT = 300  # seconds


@pytest.fixture(scope="module")
def vllm():
    return environment()


@pytest.fixture
def outputs(home, vllm, tmp_path, monkeypatch):
    """Runs a notebook, and gives the text that each of its code cells put out."""
    other = tmp_path / "other-model"
    shutil.copytree(vllm.model, other)
    for name, value in {
        **vllm.env,
        "MODEL": str(vllm.model),
        "OTHER_MODEL": str(other),
        "VLLM_MAGIC_EXECUTABLE": str(vllm.executable),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)

    def run(name: str) -> list[str]:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        client = NotebookClient(
            notebook,
            config=Config(KernelManager={"transport_encryption": "auto"}),
            timeout=CELL_LIMIT,
            coalesce_streams=True,
        )
        client.execute()
        return [
            "\n".join(map(_text, cell.outputs)).strip() for cell in notebook.cells if cell.cell_type == "code"
        ]

    return run


def _text(output) -> str:
    return output.text if output.output_type == "stream" else output.data.get("text/plain", "")


def test_two_models(outputs, traces):
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
    traces.check()


def test_panel(outputs, traces):
    _, panel, server, story, stopped, plotted = outputs("panel")
    assert "No server runs" in panel
    assert "ready" in server
    assert "tokens/s" in story
    assert "released in" in stopped
    assert "VRAM" in plotted
    traces.check()


def test_troubleshooting(outputs, traces):
    _, _, missing, flag, length, port, name, logs, doctor, reap = outputs("troubleshooting")
    assert missing.startswith("StartFailed: ")
    assert "no-such-model" in missing
    assert "--max-modell-len" in flag
    assert "Did you mean --max-model-len?" in flag
    assert "StartFailed: " in length
    assert "Lower --max-model-len to" in length
    assert "is taken by python" in port
    assert name.startswith("UsageError: No server is called nobody")
    assert logs
    assert "0.32.0" in doctor
    assert "Nothing to reap." in reap
    traces.check()
    assert not os.path.exists(NOTEBOOKS / ".ipynb_checkpoints")
