"""Run as a program: runs another one in a Python that has no `os.pidfd_open` and no `signal.pidfd_send_signal`.

    python python_without_pidfd.py WRAPPER FILE ARGUMENT...

So are Pythons that were built with an old glibc. WRAPPER is made: a program that runs Python in the same way, and is
`sys.executable` for what runs here, so that the guards lack them too (they run with -I -S, and read no file of a site).
"""

from __future__ import annotations

import os
import posix
import runpy
import shlex
import signal
import sys
from pathlib import Path


def main(wrapper: str, *words: str) -> None:
    for module, name in ((os, "pidfd_open"), (posix, "pidfd_open"), (signal, "pidfd_send_signal")):
        if hasattr(module, name):
            delattr(module, name)
    python = os.environ.pop("PYTHON_WITH_PIDFD", sys.executable)
    same = shlex.join([python, "-I", "-S", __file__, wrapper])
    Path(wrapper).write_text(f'#!/bin/sh\nPYTHON_WITH_PIDFD={shlex.quote(python)} exec {same} "$@"\n')
    Path(wrapper).chmod(0o700)
    sys.executable = wrapper
    sys.argv[:] = [word for word in words if word not in ("-I", "-S")]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
