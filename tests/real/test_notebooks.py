"""The notebook on failures, run from top to bottom on the real vLLM; the others run with the stand-in."""

from __future__ import annotations

import os

import pytest
from notebook_runs import NOTEBOOKS, outputs

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]


def test_troubleshooting(home, vllm, monkeypatch, traces):
    """Its failures are vLLM's own."""
    for name, value in {
        **vllm.env,
        "MODEL": str(vllm.model),
        "VLLM_MAGIC_EXECUTABLE": str(vllm.executable),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    _, _, missing, flag, length, forced, port, name, logs, doctor, reap = outputs("troubleshooting")
    assert missing.startswith("StartFailed: ")
    assert "no-such-model" in missing
    assert "--max-modell-len" in flag
    assert "Did you mean --max-model-len?" in flag
    assert "--max-model-len 512 or less" in length
    assert "StartFailed: " in forced
    assert "Lower --max-model-len to" in forced
    assert "is taken by python" in port
    assert name.startswith("UsageError: No server is called nobody")
    assert logs
    assert "0.32.0" in doctor
    assert "Nothing to reap." in reap
    traces.wait()
    assert not os.path.exists(NOTEBOOKS / ".ipynb_checkpoints")
