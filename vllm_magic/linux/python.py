"""The Python that runs this process, and its helper processes."""

from __future__ import annotations

import errno
import sys


def program() -> str:
    """Return the path of Python.

    Raises:
        FileNotFoundError: the path is not known (``sys.executable`` is empty, as in a program that embeds Python).
    """
    if not sys.executable:
        raise FileNotFoundError(errno.ENOENT, "Python does not know its own path (sys.executable is empty)")
    return sys.executable
