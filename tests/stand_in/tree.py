"""Processes: fork one under a title, watch several at once, end them as vLLM's managers do."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import posix  # its pidfd_open: test_pidfd.py takes that of `os` away
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from . import log
from .options import LIFE_S, from_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType

STOP_S = 5.0  # vLLM v1/utils.py shutdown(): terminate, join for 5 s, kill
_parent = -1  # pidfd of the process that forked this one
_STOPPING = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass(frozen=True)
class Child:
    """A child that has not been reaped, so its pid is its own."""

    name: str
    pid: int
    pidfd: int

    def reap(self) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def spawn(
    name: str, body: Callable[[], None], *, log_name: str | None = None, ignore_sigterm: bool = False
) -> Child:
    """Fork a process titled PREFIX::`name` that runs `body` and ends; SIGTERM and SIGINT raise SystemExit in it."""
    global _parent  # noqa: PLW0603 - the child's, for good
    own = posix.pidfd_open(os.getpid())
    # No signal may meet the parent's handlers in the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    pid = os.fork()
    if pid == 0:
        _parent = own
        _run(name, body, log_name or name, ignore_sigterm or from_environment().ignore_sigterm)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    os.close(own)
    return Child(name, pid, posix.pidfd_open(pid))


def limit_life() -> None:
    """Have this process end by SIGALRM when its time is over; a fork clears the alarm, an exec keeps it."""
    signal.alarm(min(from_environment().life_s, LIFE_S))


def _run(name: str, body: Callable[[], None], log_name: str, ignore_sigterm: bool) -> None:
    code = 0
    try:
        limit_life()
        signal.set_wakeup_fd(-1)
        for number in _STOPPING:
            signal.signal(number, _raise_exit)
        if ignore_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        log.process = log_name
        setproctitle(f"{os.environ.get('VLLM_PROCESS_NAME_PREFIX', 'VLLM')}::{name}")
        body()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - whatever it is, this fork must not return into its parent's code
        log.bare(traceback.format_exc())
        code = 1
    finally:
        os._exit(code)


def _raise_exit(number: int, _frame: FrameType | None) -> None:
    for each in _STOPPING:  # a second one must not cut the tear-down short
        signal.signal(each, signal.SIG_IGN)
    kind = log.process.split("_")[0]
    if kind in ("EngineCore", "Worker"):
        source = "core.py:1214" if kind == "EngineCore" else "multiproc_executor.py:812"
        role = kind if kind == "EngineCore" else "WorkerProc"
        log.line(f"[shutdown] {role}: trigger received signal={signal.Signals(number).name}", source)
    sys.exit(0)


def until_readable(descriptors: Iterable[int], timeout: float | None = None) -> list[int]:
    """Wait until one of `descriptors` is readable (a pidfd: its process ended) and return those that are."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [fd for fd, _ in poller.poll(None if timeout is None else max(0, timeout) * 1000)]


def stop(children: Sequence[Child], grace_s: float = STOP_S) -> None:
    """SIGTERM `children`, SIGKILL those left after `grace_s`, and reap them all."""
    for child in children:
        os.kill(child.pid, signal.SIGTERM)
    end = time.monotonic() + grace_s
    for child in children:
        if not until_readable([child.pidfd], end - time.monotonic()):
            os.kill(child.pid, signal.SIGKILL)
        child.reap()


def end_with_parent() -> None:
    """Wait for the end of the process that forked this one."""
    until_readable([_parent])


class Signals:
    """SIGTERM and SIGINT as events, awaited together with descriptors; made in the main thread."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in _STOPPING:
            signal.signal(number, lambda _number, _frame: None)
        if from_environment().ignore_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def wait(
        self, descriptors: Iterable[int] = (), timeout: float | None = None
    ) -> tuple[list[int], list[int]]:
        """Return the signals that came and the descriptors that are readable; both empty after `timeout` s."""
        ready = until_readable([self._reader, *descriptors], timeout)
        came: list[int] = []
        with contextlib.suppress(
            BlockingIOError
        ):  # read in any case: a signal may have come with the descriptor
            came += os.read(self._reader, 512)
        return came, [fd for fd in ready if fd != self._reader]
