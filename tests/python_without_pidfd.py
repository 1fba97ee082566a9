"""Run as a program: runs a Python file without `os.pidfd_open` and `signal.pidfd_send_signal`.

    python python_without_pidfd.py WRAPPER FILE ARGUMENT...

A Python that was built with an old glibc lacks these functions. WRAPPER is a path where this program writes a script that
runs Python in the same way. The script is `sys.executable` for FILE, so that the guards lack the functions too (they run
with -I -S, and so read no sitecustomize.py).
"""

from __future__ import annotations

import os
import posix
import runpy
import shlex
import signal
import sys
from pathlib import Path


def main(wrapper: str, *arguments: str) -> None:
    for module, name in ((os, "pidfd_open"), (posix, "pidfd_open"), (signal, "pidfd_send_signal")):
        if hasattr(module, name):
            delattr(module, name)
    python = os.environ.pop("PYTHON_WITH_PIDFD", sys.executable)
    same = shlex.join([python, "-I", "-S", __file__, wrapper])
    Path(wrapper).write_text(f'#!/bin/sh\nPYTHON_WITH_PIDFD={shlex.quote(python)} exec {same} "$@"\n')
    Path(wrapper).chmod(0o700)
    sys.executable = wrapper
    sys.argv[:] = [one for one in arguments if one not in ("-I", "-S")]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
