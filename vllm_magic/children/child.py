"""A program that runs for a cell which waits for it: its lines as they come, and nothing of it is left afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine.command import OF_THE_KERNEL
from vllm_magic.engine.startup.log import split_lines
from vllm_magic.errors import VllmMagicError, reason
from vllm_magic.linux import forks, pidfd, pidfd_calls, python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_magic.linux.processes import Identity

_TIE = Path(__file__).with_name("watchdog.py")
EXIT_LIMIT = 5.0  # seconds for one that was asked to end; it kills without mercy, and takes milliseconds


class ChildProcess:
    """Runs the words until they end, or until `close`; they end with this process too. For one thread.

    Args:
        words: the command line.
        env: on top of this process's environment; None takes a variable out.
        needs: a process without which the words must not run: they are killed as soon as it has ended.

    Raises:
        VllmMagicError: it cannot be run, or the process that it needs has ended.
    """

    def __init__(
        self, words: Sequence[str], env: Mapping[str, str | None], needs: Identity | None = None
    ) -> None:
        environ = {**{name: value for name, value in os.environ.items() if name not in OF_THE_KERNEL}, **env}
        others: list[int] = []
        try:
            others.append(pidfd_calls.open_pid(os.getpid()))
            if needs is not None:
                others.append(_opened(needs))
            self._process = forks.spawn(
                [python.program(), "-I", "-S", str(_TIE), str(len(others)), *others, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in environ.items() if value is not None},
            )
        except OSError as error:
            raise VllmMagicError(f"{words[0]} cannot be run: {reason(error)}.") from error
        finally:
            for fd in others:
                os.close(fd)
        assert self._process.stdout  # noqa: S101 - a pipe
        forks.keep_out(self._process.stdout)

    def lines(self, pause: float) -> Iterator[list[str]]:
        """The lines since the last look, safe to show; an empty list after each ``pause`` seconds without one."""
        assert self._process.stdout  # noqa: S101 - a pipe
        fd, rest = self._process.stdout.fileno(), b""
        ended = pidfd_calls.open_pid(self._process.pid)  # not waited for yet, so the number is still its own
        try:
            while True:
                ready = pidfd.readable([fd, ended], pause)
                if not ready:
                    yield []
                    continue
                # Once it has ended, what it left in the pipe is all: a copy of the other end may be anywhere.
                data = os.read(fd, 2**16) if fd in ready or pidfd.readable([fd], 0.0) else b""
                lines, rest = split_lines(rest + data + (b"" if data else b"\n"))
                yield lines
                if not data:
                    return
        finally:
            os.close(ended)

    def exit_code(self) -> int:
        """Of the words, once `lines` has ended; 128 and more for a signal."""
        return self._process.wait(EXIT_LIMIT)

    def close(self) -> None:
        """End it, if it runs still."""
        self._process.terminate()
        try:
            self._process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is left to it
                self._process.wait(EXIT_LIMIT)
        assert self._process.stdout  # noqa: S101 - a pipe
        self._process.stdout.close()


def _opened(needs: Identity) -> int:
    fd = pidfd.open_pidfd(needs)
    if fd is None:
        raise ProcessLookupError(errno.ESRCH, f"the process {needs.pid}, which it needs, has ended")
    return fd
