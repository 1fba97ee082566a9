"""A file that hides a module of Python from vLLM is told before the start."""

from __future__ import annotations

import sys

import pytest

from vllm_magic.engine.start_checks import shadowed_modules
from vllm_magic.errors import StartFailed


@pytest.fixture
def check(planned, tmp_path, monkeypatch):
    """Return a function that checks a start in `tmp_path`, with a vLLM of this version of Python."""
    monkeypatch.chdir(tmp_path)

    def check(version: str = "3.11", script: str = "", **environ: str) -> None:
        environment = tmp_path / f"environment-{version}"
        (environment / f"lib/python{version}").mkdir(parents=True, exist_ok=True)
        (environment / "bin").mkdir(exist_ok=True)
        vllm = environment / "bin/vllm"
        vllm.write_text(script or f"#!{sys.executable}\nfrom vllm.entrypoints.cli.main import main\nmain()\n")
        vllm.chmod(0o755)
        shadowed_modules.check(planned(executable=str(vllm), environ=environ))

    return check


@pytest.mark.parametrize(
    ("name", "text"),
    [("random", "x = 1"), ("http", "def get(): ..."), ("torch", ""), ("token", "TOKEN = 'x'")],
)
def test_in_a_folder_of_pythonpath(check, tmp_path, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    check()
    with pytest.raises(StartFailed) as refused:
        check(PYTHONPATH="/nowhere:.")
    assert str(refused.value) == (
        f"{tmp_path}/{name}.py hides the module {name} from vLLM, which cannot start without it. "
        "Rename the file, or take . out of PYTHONPATH"
    )


def test_in_the_working_directory_of_python_3_10(check, tmp_path):
    (tmp_path / "select.py").write_text("chosen = 1")
    check("3.11")
    check("3.10", VLLM_WORKER_MULTIPROC_METHOD="fork")
    check("3.10", script="#!/bin/sh\nexec vllm")
    with pytest.raises(
        StartFailed, match=r"select\.py hides the module select .* from another folder: %cd FOLDER$"
    ):
        check("3.10")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("random", "from numpy.random import Generator as Random"),
        ("random", "from mine import *"),
        ("http", "__path__ = ['/elsewhere']"),
        ("calendar", ""),  # no module of vLLM certainly needs it
    ],
)
def test_what_may_do(check, tmp_path, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    check("3.10", PYTHONPATH=str(tmp_path))


def test_a_package(check, tmp_path):
    """Python takes the folder, not the file."""
    (tmp_path / "http").mkdir()
    (tmp_path / "http.py").write_text("")
    check(PYTHONPATH=str(tmp_path))
