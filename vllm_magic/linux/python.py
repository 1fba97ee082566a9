"""The Python that runs this process, which runs the helpers too."""

from __future__ import annotations

import errno
import sys


def program() -> str:
    """Its path.

    Raises:
        FileNotFoundError: Python does not know it (``sys.executable`` is empty, as in a program that embeds Python).
    """
    if not sys.executable:
        raise FileNotFoundError(errno.ENOENT, "Python does not know its own path (sys.executable is empty)")
    return sys.executable
