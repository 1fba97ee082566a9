"""The notebooks for Google Colab and Kaggle, cell by cell in the environment of each, on the stand-in for vLLM.

The commands `pip` and `uv` are replaced: they note what they were asked for, and `uv venv` makes the stand-in's environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stand_in

from environments.catalog import ALL, ROOT
from environments.kernels import WIDGET, kernel

if TYPE_CHECKING:
    from environments.kernels import Ran

FOLDERS = {"colab": "/content", "kaggle": "/kaggle/working"}  # in which these services run a notebook
TOKEN = "a-token-that-nobody-may-see"
COMMAND = """\
#!{python}
import os, sys
with open({log!r}, "a") as log:
    print({name!r}, *sys.argv[1:], file=log)
if {name!r} == "uv" and sys.argv[1] == "venv":
    os.symlink({vllm!r}, sys.argv[-1])
"""


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The file in which the replaced commands note their arguments."""
    vllm = stand_in.install_environment(tmp_path / "vllm")
    log = tmp_path / "installed.log"
    (tmp_path / "bin").mkdir()
    for name in ("pip", "uv"):
        path = tmp_path / "bin" / name
        path.write_text(
            COMMAND.format(python=sys.executable, log=str(log), name=name, vllm=str(vllm.parents[1]))
        )
        path.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return log


@pytest.mark.parametrize("service", FOLDERS)
def test_notebook(service, home, fake_gpus, traces, tmp_path, monkeypatch, installed):
    monkeypatch.setenv(f"{service.upper()}_SECRET", TOKEN)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_MAGIC_EXECUTABLE"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    cells = json.loads((ROOT / "notebooks" / f"{service}.ipynb").read_text())["cells"]
    with kernel(ALL[service], work) as running:
        ran = {
            cell["id"]: running.run("".join(cell["source"]).replace(FOLDERS[service], str(work)))
            for cell in cells
            if cell["cell_type"] == "code"
        }
        assert running.run("import os\nprint(len(os.environ['HF_TOKEN']))").text.strip() == str(len(TOKEN))
    assert installed.read_text().splitlines() == [
        "pip install -q vllm-magic uv",
        "uv venv -q vllm-environment",
        "uv pip install -q --python vllm-environment/bin/python vllm==0.11.2",
    ]
    check_outputs(ran, service)
    traces.wait()  # a spare ends with its kernel


def check_outputs(ran: dict[str, Ran], service: str) -> None:
    """Check what the cells of both notebooks put out."""
    assert "ready" in ran["start"].text
    assert "tokens/s" in ran["story"].text
    assert "word0" in ran["chat"].text
    assert "released in" in ran["stopped"].text
    if service == "colab":
        assert any("application/javascript" in data for data, _ in ran["docs"].bundles)
        assert ran["show"].bundles[-1][1][WIDGET]["colab"]
    assert not [one for one in ran.values() if TOKEN in str(one)]
