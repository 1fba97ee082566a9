"""`%vllm lora`, `bench`, `pull` and `models` in a cell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hub_on_loopback import Hub
from IPython.utils.capture import capture_output

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "org/small"
# The benchmark, in place of that of a vLLM; the rest is the stand-in.
BENCH = """#!{python}
import os, sys
if sys.argv[1] != "bench":
    os.execv({executable!r}, [{executable!r}, *sys.argv[1:]])
done = 0 if "--seed" in sys.argv else 3
print("============ Serving Benchmark Result ============")
print("Successful requests: ", done)
print("Prompts: ", sys.argv[sys.argv.index("--num-prompts") + 1])
print("==================================================")
"""


@pytest.fixture(autouse=True)
def hugging_face(tmp_path, monkeypatch) -> Path:
    """The folder of the Hub's cache, which is empty."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return tmp_path / "hf" / "hub"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    """A hub on this machine, with one model."""
    with Hub(tmp_path / "served") as hub:
        folder = hub.folder / MODEL
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(b"{}")
        (folder / "model.safetensors").write_bytes(bytes(2**20))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def said(shell, line: str) -> str:
    """Return what a cell with this line shows: what is printed, and what the line returns."""
    with capture_output() as seen:
        result = shell.run_cell(line)
    assert result.error_in_exec is None or seen.stdout or seen.stderr
    return seen.stdout + seen.stderr


def test_a_model_is_downloaded_and_listed(shell, hub, hugging_face):
    assert f"No model is in {hugging_face}" in said(shell, "%vllm models")
    told = said(shell, f"%vllm pull {MODEL}")
    assert f"{MODEL} is on this machine, 0.00 GiB: {hugging_face}" in told
    listed = said(shell, "%vllm models")
    assert MODEL in listed
    assert "not complete" not in listed


def test_a_model_that_the_hub_does_not_have(shell, hub):
    assert "org/none" in said(shell, "%vllm pull org/none")
    assert "Traceback" not in said(shell, "%vllm pull org/none")


def test_adapters(shell, tmp_path):
    (tmp_path / "sailor").mkdir()
    (tmp_path / "sailor" / "adapter_config.json").write_text("{}")
    said(shell, "%vllm start tiny --enable-lora --env VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
    none = "Adapters of tiny: none. %vllm lora load NAME FOLDER loads one."
    assert none in said(shell, "%vllm lora list")
    assert "Adapters of tiny: sailor." in said(shell, f"%vllm lora load sailor {tmp_path / 'sailor'}")
    assert "sailor" in said(shell, f"%vllm lora load sailor {tmp_path / 'sailor'}")  # it is loaded already
    assert none in said(shell, "%vllm lora unload sailor")


def test_a_benchmark(shell, executable, tmp_path):
    path = tmp_path / "vllm"
    path.write_text(BENCH.format(python=sys.executable, executable=executable))
    path.chmod(0o755)
    said(shell, f"%vllm start tiny --executable {path}")
    table = said(shell, "%vllm bench --num-prompts 7")
    assert "Successful requests:  3" in table
    assert "Prompts:  7" in table
    assert "Prompts:  8" in said(shell, "%vllm bench tiny --num-prompts 8")
    assert "None of the requests of vllm bench serve has succeeded" in said(
        shell, "%vllm bench --seed 1 --num-prompts 7"
    )
    assert "No server is called none" in said(shell, "%vllm bench none")
