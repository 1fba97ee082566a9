"""Finding vLLM."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from vllm_magic.errors import ExecutableNotFound


def find(wanted: str | None = None) -> str:
    """The absolute path of ``vllm``: ``wanted``, $VLLM_MAGIC_EXECUTABLE, beside this Python, then $PATH.

    Raises:
        ExecutableNotFound: it is at none of these places.
    """
    named = wanted or os.environ.get("VLLM_MAGIC_EXECUTABLE")
    if named:
        found = shutil.which(str(Path(named).expanduser()) if named.startswith("~") else named)
        if not found:
            raise ExecutableNotFound(f"{named} is not a program that can be run. Check the path of vLLM.")
        return str(Path(found).absolute())
    beside = Path(sys.executable).with_name("vllm")
    found = shutil.which(str(beside)) or shutil.which("vllm")
    if not found:
        raise ExecutableNotFound(
            "vLLM is not installed here. Install it (pip install vllm), or say where it is: "
            "--executable /path/to/vllm, or $VLLM_MAGIC_EXECUTABLE."
        )
    return str(Path(found).absolute())
