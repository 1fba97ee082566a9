"""`%load_ext vllm_magic` in an IPython that does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 120.0  # seconds for one IPython
PROGRAM = """
from time import perf_counter
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
began = perf_counter()
shell.run_line_magic("load_ext", "vllm_magic")
took = perf_counter() - began
assert shell.find_line_magic("vllm")
print(took)
"""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of an IPython that keeps bytecode and its own files in this folder."""
    return {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "",  # empty means unset
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "IPYTHONDIR": str(folder / "ipython"),
    }


def load_seconds(folder: Path, times: int) -> list[float]:
    """Return what it takes in each of so many fresh processes, in seconds.

    One more before them is not measured: it compiles, as pip does when it installs a package.

    Args:
        folder: for bytecode, and for IPython's own files.
        times: how many.
    """
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            env=environment(folder),
            timeout=LIMIT,
            check=True,
            text=True,
        )
        for _ in range(times + 1)
    ]
    return [float(run.stdout.splitlines()[-1]) for run in runs[1:]]
