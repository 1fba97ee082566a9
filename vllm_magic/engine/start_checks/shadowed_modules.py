"""Refuse a file that hides a module from vLLM, so that vLLM or one of its processes cannot be imported.

Python looks for a module in the folders of PYTHONPATH before its own. Python 3.10 looks first in the working directory if
multiprocessing starts a process, which is often the folder of a notebook; later versions obey PYTHONSAFEPATH, which every server
has (`command.common_environment`). A file is refused only if it certainly is not what vLLM needs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine import executable
from vllm_magic.errors import StartFailed
from vllm_magic.linux import files

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

LONGEST = 2**20  # bytes of a file that is read
# Packages: a file in their place has none of their modules.
_PACKAGES = (
    "asyncio", "collections", "concurrent", "ctypes", "email", "http", "importlib", "json", "logging", "multiprocessing",
    "numpy", "torch", "transformers", "urllib",
)  # fmt: skip
# Modules, each with a name that another module of Python needs when it is imported (such as tempfile, selectors, pickle).
_NAMES = {
    "enum": "IntEnum",
    "random": "Random",
    "select": "select",
    "socket": "socket",
    "struct": "pack",
    "token": "EXACT_TOKEN_TYPES",
    "types": "GenericAlias",
    "typing": "Any",
}
# Those that a process of multiprocessing imports before it has the paths of its parent. Each was tried with Python 3.10.
_IN_A_CHILD = ("collections", "enum", "importlib", "multiprocessing", "select", "socket", "struct", "types")
# With these words, a file may have any name, or be a package.
_MAY_BE_MORE = re.compile(r"import \*|__path__|__getattr__|globals\(\)|sys\.modules")


def check(start: PlannedStart) -> None:
    """Check the folders of PYTHONPATH, and for Python 3.10 the working directory.

    Raises:
        StartFailed: a file hides a module.
    """
    if start.executable is None:
        return
    python = executable.interpreter(start.executable)
    if python is None or len(python) > 1:  # a wrapper, or a Python with options such as -I
        return
    cwd = Path(start.spec.cwd)
    for name in filter(None, start.environ.get("PYTHONPATH", "").split(os.pathsep)):
        _check_folder(cwd / name, (*_PACKAGES, *_NAMES), f"take {name} out of PYTHONPATH")
    is_spawned = "VLLM_WORKER_MULTIPROC_METHOD" not in start.environ
    if is_spawned and _is_python_3_10(start.executable):
        _check_folder(cwd, _IN_A_CHILD, "start the server from another folder: %cd FOLDER")


def _is_python_3_10(path: str) -> bool:
    environment = Path(path).resolve().parent.parent
    return [found.name for found in environment.glob("lib/python3.*")] == ["python3.10"]


def _check_folder(folder: Path, names: Collection[str], way_out: str) -> None:
    for name in names:
        path = folder / f"{name}.py"
        if path.is_file() and not (folder / name).is_dir() and _hides(path, name):
            raise StartFailed(
                f"{path} hides the module {name} from vLLM, which cannot start without it",
                f"Rename the file, or {way_out}",
            )


def _hides(path: Path, name: str) -> bool:
    """Whether the file certainly lacks what vLLM needs of the module of this name."""
    try:
        text = files.read_regular(path, LONGEST).decode()
    except (OSError, ValueError):
        return False
    needed = _NAMES.get(name)
    return not _MAY_BE_MORE.search(text) and not (needed and re.search(rf"\b{needed}\b", text))
