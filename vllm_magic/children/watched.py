"""Run a command below a watchdog (`watchdog.py`), which ends all processes of the command when this process ends."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from typing import TYPE_CHECKING, Any

from vllm_magic.children import command_mark
from vllm_magic.engine.command import OF_THE_KERNEL
from vllm_magic.linux import forks, marks, pidfd, pidfd_calls, python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vllm_magic.linux.processes import Identity

EXIT_LIMIT = 5.0  # seconds for a watchdog to end after a request: it sends SIGKILL, which takes milliseconds


class WatchedProcess:
    """A watchdog and its command, from their start to `end`.

    A watchdog ends all processes below it. If the watchdog itself was killed, this object ends the processes with its mark
    (`linux.marks`).

    Args:
        program: the path of the watchdog's program. It gets the pidfds of this process and of ``needs``, see `watchdog`.
        words: the other words of the watchdog's command line.
        env: variables added to this process's environment; None removes a variable.
        needs: a process without which the command must not run; None for no such process.
        **options: as for `subprocess.Popen`.

    Raises:
        OSError: the watchdog cannot be started, or the process ``needs`` has ended.

    Attributes:
        process: the watchdog.
    """

    def __init__(
        self,
        program: Path,
        words: tuple[str, ...],
        env: Mapping[str, str | None],
        needs: Identity | None = None,
        **options: Any,
    ) -> None:
        identifier = command_mark.new().identifier
        self._mark = command_mark.entry(identifier)
        self._cleared = False
        kept = {name: value for name, value in os.environ.items() if name not in OF_THE_KERNEL}
        given = {**kept, **env, marks.COMMAND_MARK: identifier}
        watched: list[int] = []
        try:
            watched.append(pidfd_calls.open_pid(os.getpid()))
            if needs is not None:
                watched.append(_opened(needs))
            self.process = forks.spawn(
                [python.program(), "-I", "-S", str(program), str(len(watched)), *watched, *words],
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in given.items() if value is not None},
                **options,
            )
        finally:
            for fd in watched:
                os.close(fd)

    def has_ended(self) -> bool:
        """Whether the watchdog has ended, and all processes below it."""
        if self.process.poll() is None:
            return False
        self._end_rest()
        return True

    def ask_to_end(self) -> None:
        """Request the end of the watchdog, and return at once."""
        self.process.terminate()

    def end(self) -> None:
        """End the watchdog, if it still runs. This takes at most 10 seconds, even if a process hangs in the kernel."""
        self.ask_to_end()
        try:
            self.process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_LIMIT)
        self._end_rest()

    def _end_rest(self) -> None:
        """After the watchdog was killed, end the processes below it: only the command itself has ended with the watchdog."""
        if (self.process.returncode or 0) < 0 and not self._cleared:
            self._cleared = True
            command_mark.kill(self._mark)


def _opened(needs: Identity) -> int:
    """Return a pidfd of a process that the command needs."""
    fd = pidfd.open_pidfd(needs)
    if fd is None:
        raise ProcessLookupError(errno.ESRCH, f"the process {needs.pid}, which it needs, has ended")
    return fd
