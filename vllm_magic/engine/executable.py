"""Finding vLLM."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from vllm_magic.errors import ExecutableNotFound
from vllm_magic.linux import files, home

LONGEST_SCRIPT = 4096  # bytes of a console script; those that pip writes take 250
# Where a path is too long for "#!", pip begins with /bin/sh and a line that sh and Python both take.
_FIRST_LINE = re.compile(r"""#!/bin/sh\n'''exec' (.+) "\$0" "\$@"\n|#!(.+)\n""")
_ENTRY_POINT = re.compile(r"^from vllm\.[\w.]+ import main$", re.MULTILINE)


def find(wanted: str | None = None) -> str:
    """The absolute path of ``vllm``: ``wanted``, $VLLM_MAGIC_EXECUTABLE, beside this Python, then $PATH.

    Raises:
        ExecutableNotFound: it is at none of these places.
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
    found = shutil.which(beside) or shutil.which("vllm")
    if not found:
        raise ExecutableNotFound(
            "vLLM is not installed here. Install it (pip install vllm), or say where it is: "
            "--executable /path/to/vllm, or $VLLM_MAGIC_EXECUTABLE."
        )
    return str(Path(found).absolute())


def interpreter(path: str) -> tuple[str, ...] | None:
    """The Python behind vLLM's own console script, as the words that run it.

    None for anything else, a wrapper for instance: what that runs is not known.
    """
    try:
        with open(path, "rb", opener=files.unblocked) as file:
            script = file.read(LONGEST_SCRIPT).decode()
    except (OSError, UnicodeDecodeError):
        return None
    line = _FIRST_LINE.match(script)
    if line is None or not _ENTRY_POINT.search(script):
        return None
    try:
        words = shlex.split(line[1] or line[2])
    except ValueError:
        return None
    return tuple(words) if any("python" in Path(word).name for word in words) else None
