"""Run a program to its end and return its output, with limits of time and of bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from vllm_magic.linux import forks, pidfd, pidfd_calls

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = 2**16  # bytes read at once
EXIT_LIMIT = 1.0  # seconds to wait for a killed process; it may hang in the kernel


def read(words: Sequence[Any], limit: float, most: int) -> bytes | None:
    """Run a program, and return its standard output if its exit code is 0.

    The program runs in ``/`` and in a session of its own, whose processes are killed at the end. A child that keeps
    the output open does not delay the end.

    Args:
        words: the command line.
        limit: seconds for all of it.
        most: the longest output, in bytes.

    Returns:
        The output; None if the program cannot be run, fails, takes too long or prints too much.
    """
    deadline = time.monotonic() + limit
    try:
        process = forks.spawn(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return None
    assert process.stdout  # noqa: S101 - a pipe
    forks.keep_out(process.stdout)
    said = None
    try:
        with contextlib.suppress(OSError):  # no descriptor is free
            said = _until_end(process.pid, process.stdout.fileno(), deadline, most)
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_LIMIT)
    return said if process.returncode == 0 else None


def _until_end(pid: int, output: int, deadline: float, most: int) -> bytes | None:
    """Read the output of the child until its end; return None if a limit is reached before that."""
    said = b""
    ended = pidfd_calls.open_pid(pid)
    waited = {output, ended}
    try:
        while ready := pidfd.readable(waited, deadline - time.monotonic()):
            if output not in ready:
                return said
            piece = os.read(output, PIECE)
            said += piece
            if len(said) > most:
                break
            if not piece:
                waited.discard(output)
    finally:
        os.close(ended)
    return None
