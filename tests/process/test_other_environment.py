"""``vllm-magic`` in an environment of its own, as pipx and uvx make it: it finds the servers of kernels elsewhere."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import by_hand
import pytest

import vllm_magic
from vllm_magic import ledger

NAMES = ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_DATA_HOME", "VLLM_MAGIC_HOME")


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of an environment that has what this one has, except for Jupyter's packages."""
    folder = tmp_path_factory.mktemp("pipx")
    venv.create(folder, symlinks=True)
    made = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for installed in map(Path, site.getsitepackages()):
        for one in installed.iterdir():
            if (
                not one.name.startswith(("jupyter", "_", "zz", "distutils"))
                and not (made / one.name).exists()
            ):
                (made / one.name).symlink_to(one)
    (made / "vllm_magic.pth").write_text(f"{Path(vllm_magic.__file__).parents[1]}\n")
    return folder / "bin" / "python"


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-E", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * by_hand.LIMIT)


def test_it_has_no_jupyter(python):
    assert "No module named 'jupyter_core'" in run(python, "-c", "import jupyter_core").stderr


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder that a variable can name; none does yet."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "place").mkdir(mode=0o700)
    return tmp_path / "place"


@pytest.mark.parametrize("name", ["HOME", *NAMES])
def test_it_has_the_same_state_folder(python, name, place, monkeypatch):
    monkeypatch.setenv(name, str(place))
    script = "from vllm_magic import ledger; print(ledger.state_path())"
    assert run(python, "-c", script).stdout == f"{ledger.state_path()}\n"
    assert place in ledger.state_path().parents or name == "VLLM_MAGIC_HOME"


def test_it_stops_the_server_of_a_kernel(python, place, executable, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    with by_hand.kernel("remote"):
        assert "remote" in run(python, "-m", "vllm_magic", "ps").stdout
        stopped = run(python, "-m", "vllm_magic", "stop", "remote")
        assert stopped.returncode == 0, stopped
    assert os.listdir(place / "jupyter" / "runtime" / "vllm_magic") == ["logs"]
