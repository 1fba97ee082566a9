"""A program that runs for a cell which waits for it: its lines as they come, and nothing of it is left afterwards."""

from __future__ import annotations

import math
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.children.watched import EXIT_LIMIT, WatchedProcess
from vllm_magic.engine.startup.log import split_lines
from vllm_magic.errors import VllmMagicError, reason
from vllm_magic.linux import forks, pidfd, pidfd_calls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_magic.linux.processes import Identity

_WATCHDOG = Path(__file__).with_name("watchdog.py")


class ChildProcess:
    """Runs the words until they end, or until `close`; they end with this process too. For one thread.

    Args:
        words: the command line.
        env: on top of this process's environment; None takes a variable out.
        cwd: the working directory; None for this process's.
        stderr: what becomes of the words' standard error, as for `subprocess.Popen`.
        needs: a process without which the words must not run: they are killed as soon as it has ended.

    Raises:
        VllmMagicError: it cannot be run, or the process that it needs has ended.
    """

    def __init__(
        self,
        words: Sequence[str],
        env: Mapping[str, str | None],
        *,
        cwd: str | None = None,
        stderr: int = subprocess.STDOUT,
        needs: Identity | None = None,
    ) -> None:
        self._name = words[0]
        try:
            self._watched = WatchedProcess(
                _WATCHDOG, tuple(words), env, needs, cwd=cwd, stdout=subprocess.PIPE, stderr=stderr
            )
        except OSError as error:
            raise VllmMagicError(f"{self._name} cannot be run: {reason(error)}.") from error
        self._process = self._watched.process
        assert self._process.stdout  # noqa: S101 - a pipe
        forks.keep_out(self._process.stdout)

    def output(self, limit: float, most: int) -> bytes | None:
        """Its whole output, once it has ended with exit code 0.

        Args:
            limit: seconds for all of it.
            most: the longest output, in bytes.

        Returns:
            The output; None if it fails, takes too long or says too much.
        """
        said, deadline = b"", time.monotonic() + limit
        for piece in self._pieces(deadline=deadline):
            said += piece or b""
            if len(said) > most:
                return None
        rest = max(0.0, deadline - time.monotonic())
        try:
            return said if self._process.wait(rest) == 0 else None
        except subprocess.TimeoutExpired:
            return None

    def lines(self, pause: float) -> Iterator[list[str]]:
        """The lines since the last look, safe to show; an empty list after each ``pause`` seconds without one."""
        rest = b""
        for piece in self._pieces(pause):
            lines, rest = ([], rest) if piece is None else split_lines(rest + piece)
            yield lines
        yield split_lines(rest + b"\n")[0]

    def _pieces(self, pause: float = math.inf, deadline: float = math.inf) -> Iterator[bytes | None]:
        """What it prints, until its end or the deadline; None after each ``pause`` seconds without a piece."""
        assert self._process.stdout  # noqa: S101 - a pipe
        fd = self._process.stdout.fileno()
        ended = pidfd_calls.open_pid(self._process.pid)  # not waited for yet, so the number is still its own
        try:
            while (rest := deadline - time.monotonic()) > 0:
                wait = min(pause, rest)
                ready = pidfd.readable([fd, ended], wait if wait < math.inf else None)
                if not ready:
                    yield None
                    continue
                # Once it has ended, what it left in the pipe is all: a copy of the other end may be anywhere.
                data = os.read(fd, 2**16) if fd in ready or pidfd.readable([fd], 0.0) else b""
                if not data:
                    return
                yield data
        finally:
            os.close(ended)

    def exit_code(self) -> int:
        """Of the words, once `lines` has ended; 128 and more for a signal.

        Raises:
            VllmMagicError: it runs still.
        """
        try:
            code = self._process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            raise VllmMagicError(
                f"{self._name} has closed its output, but does not end. It is killed now; try it again."
            ) from None
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        """End it, if it runs still."""
        self._watched.end()
        assert self._process.stdout  # noqa: S101 - a pipe
        self._process.stdout.close()
