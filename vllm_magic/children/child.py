"""Run a command while a cell waits. Its output arrives line by line, and no process of the command is left at the end."""

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
    """Runs a command until it ends, or until `close` or the end of this process. For one thread.

    Args:
        words: the command line.
        env: variables added to this process's environment; None removes a variable.
        cwd: the working directory; None for that of this process.
        stderr: the command's standard error, as for `subprocess.Popen`.
        needs: a process without which the command must not run: the command is killed as soon as this process ends.

    Raises:
        VllmMagicError: the command cannot be run, or the process ``needs`` has ended.
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
        """Wait for the end of the command, and return its whole output.

        Args:
            limit: seconds for the command.
            most: the longest output, in bytes.

        Returns:
            The output; None if the exit code is not 0, or the command takes too long or prints too much.
        """
        output, deadline = b"", time.monotonic() + limit
        for piece in self._pieces(deadline=deadline):
            output += piece or b""
            if len(output) > most:
                return None
        rest = max(0.0, deadline - time.monotonic())
        try:
            return output if self._process.wait(rest) == 0 else None
        except subprocess.TimeoutExpired:
            return None

    def lines(self, pause: float) -> Iterator[list[str]]:
        """Yield the new lines, safe to show; an empty list after each ``pause`` seconds without a line."""
        rest = b""
        for piece in self._pieces(pause):
            lines, rest = ([], rest) if piece is None else split_lines(rest + piece)
            yield lines
        yield split_lines(rest + b"\n")[0]

    def _pieces(self, pause: float = math.inf, deadline: float = math.inf) -> Iterator[bytes | None]:
        """Yield the pieces of the output until the end or the deadline; None after each ``pause`` seconds without a piece."""
        assert self._process.stdout  # noqa: S101 - a pipe
        fd = self._process.stdout.fileno()
        ended = pidfd_calls.open_pid(self._process.pid)  # no other process can have this pid before `wait`
        try:
            while (rest := deadline - time.monotonic()) > 0:
                wait = min(pause, rest)
                ready = pidfd.readable([fd, ended], wait if wait < math.inf else None)
                if not ready:
                    yield None
                    continue
                # After its end, only the rest in the pipe is read: any process may have a copy of the other end.
                data = os.read(fd, 2**16) if fd in ready or pidfd.readable([fd], 0.0) else b""
                if not data:
                    return
                yield data
        finally:
            os.close(ended)

    def exit_code(self) -> int:
        """Return the exit code of the command after the end of `lines`; for a signal, 128 plus its number.

        Raises:
            VllmMagicError: the command still runs.
        """
        try:
            code = self._process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            raise VllmMagicError(
                f"{self._name} has closed its output, but does not end. It is killed now; try it again."
            ) from None
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        """End the command, if it still runs."""
        self._watched.end()
        assert self._process.stdout  # noqa: S101 - a pipe
        self._process.stdout.close()
