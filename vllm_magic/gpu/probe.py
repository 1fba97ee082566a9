"""Read the GPUs from the NVIDIA driver, in a process of its own.

NVML can hang in the kernel, crash, or need seconds to initialise, so only the probe process (nvml_child.py) calls it. The
process keeps running, since a start takes 1 to 3 s for each GPU if no persistence daemon runs. It is killed when it does not
answer.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic import background
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.linux import forks, pidfd, pidfd_calls, python
from vllm_magic.linux.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHILD = Path(__file__).with_name("nvml_child.py")
_RETRY_AFTER_HANG = 60.0  # seconds until a driver that hung is asked again
_LONGEST_REPLY = 2**24  # bytes; each process on a GPU takes about 20 bytes
_EXIT_WAIT = 1.0  # seconds for a killed process to end; it may hang in the kernel


class _ProbeFailedError(Exception):
    """The probe process did not answer; the message says why."""


class Probe:
    """The probe process, which reads the GPUs. Safe to use from any thread; requests are answered one after the other.

    The main thread never holds the lock: see `background.off_main_thread`.
    """

    def __init__(self, start_timeout: float = 15.0, env: Mapping[str, str] | None = None) -> None:
        """Prepare a probe; its process starts with the first snapshot.

        Args:
            start_timeout: seconds for the first answer of a new process.
            env: the environment of the process; by default that of this process.
        """
        self._start_timeout = start_timeout
        self._env = env
        self._closing = False
        self._lock = threading.Lock()  # protects all attributes below
        # The latch of the request that is under way. It is set when the caller of the request does not wait any more.
        self._request_under_way: Latch | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the pid of the process that started the child
        self._has_answered = False  # whether the child has answered a request
        self._unanswered_since: float | None = None  # the time of the request that has no reply yet
        self._received = b""  # the part of the reply that has arrived
        self._next_attempt = 0.0  # by `time.monotonic`
        self._hang_problem = ""

    @property
    def pid(self) -> int | None:
        """The pid of the probe process. It has the device files open itself, so it does not count as a holder of a GPU."""
        child = self._child
        return child.pid if child else None

    def snapshot(self, timeout: float = 5.0, *, may_start: bool = True) -> Snapshot:
        """Return the GPUs as they are now. Without an answer, the snapshot has no GPUs, and `Snapshot.problem` says why.

        This raises no error. A request takes at most `timeout`, or `start_timeout` for the first answer of a new process. The
        call may first wait as long for the request of another thread. After a hang, the driver is not asked for
        `_RETRY_AFTER_HANG` seconds. An interrupt ends the request too.

        Args:
            timeout: seconds for an answer.
            may_start: whether a new process may be started. If False, only a process that has answered before is asked,
                `timeout` is the limit of the whole call, and a late answer does not count as a hang.
        """
        interrupted = Latch()
        try:
            return background.off_main_thread(
                lambda: self._snapshot(timeout, interrupted, may_start=may_start)
            )
        except BaseException:  # an interrupt
            interrupted.set()
            if self._request_under_way is interrupted:
                self._kill()
            raise

    def _snapshot(self, timeout: float, interrupted: Latch, *, may_start: bool) -> Snapshot:
        limit = timeout + (self._start_timeout if may_start else 0.0)
        if not self._lock.acquire(timeout=limit):
            return _no_gpus(f"the NVIDIA driver did not answer within {limit:g} s")
        try:
            self._request_under_way = interrupted
            if time.monotonic() < self._next_attempt:
                return _no_gpus(self._hang_problem)
            if not may_start and not self.is_warm:
                return _no_gpus("the NVIDIA driver was not asked, since the first answer may take seconds")
            return self._ask(timeout, interrupted, patient=may_start)
        except (_ProbeFailedError, OSError, ValueError) as error:
            return _no_gpus(str(error))
        finally:
            self._request_under_way = None
            self._lock.release()

    @property
    def is_warm(self) -> bool:
        """Whether the probe process lives and has answered before."""
        child = self._child
        return bool(child and self._has_answered and self._owner == os.getpid() and child.poll() is None)

    def close(self) -> None:
        """End the probe process, and the request of another thread. A later snapshot starts a new process."""
        background.off_main_thread(self._close)

    def _close(self) -> None:
        self._closing = True
        try:
            self._kill()
            with self._lock:
                self._end(_EXIT_WAIT)
        finally:
            self._closing = False

    def _kill(self) -> None:
        """Kill the probe process. A thread that waits for its answer then gets an error."""
        child = self._child
        if child and self._owner == os.getpid():
            child.kill()

    def _ask(self, timeout: float, interrupted: Latch, *, patient: bool) -> Snapshot:
        """Request a snapshot. If ``patient`` is False, a late reply is left to the next call, and is not a hang.

        Raises:
            _ProbeFailedError: there is no reply.
            OSError: the process cannot be started or reached.
            ValueError: the reply is not valid.
        """
        child = self._running()
        if self._closing:  # checked after the start: `close` kills the process that it finds
            raise _ProbeFailedError("the probe was closed")
        if interrupted.is_set():
            raise _ProbeFailedError("the request was interrupted")
        if not self._has_answered:
            timeout = max(timeout, self._start_timeout)
        try:
            # Skip the reply to the request of an earlier call that did not wait for it.
            if self._unanswered_since is not None:
                self._reply(child, (time.monotonic() if patient else self._unanswered_since) + timeout)
            taken = time.monotonic()
            self._request(child)
            reply = json.loads(self._reply(child, taken + timeout))
        except TimeoutError:
            problem = f"the NVIDIA driver did not answer within {timeout:g} s"
            if patient:
                self._hang_problem = problem
                self._next_attempt = time.monotonic() + _RETRY_AFTER_HANG
                self._end(0.0)
            raise _ProbeFailedError(problem) from None
        except (EOFError, BrokenPipeError):
            raise _ProbeFailedError(_cause(self._end(_EXIT_WAIT))) from None
        except BaseException:
            self._end(0.0)  # after an interrupt, the next request must not get this reply
            raise
        self._has_answered = True
        return _snapshot(taken, reply)

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the probe process; start a new one if this process has no living one."""
        child = self._child
        if child and self._owner == os.getpid() and child.poll() is None:
            return child
        self._end(0.0)
        nvml = importlib.util.find_spec("pynvml")
        if nvml is None or nvml.origin is None:
            raise _ProbeFailedError("nvidia-ml-py is not installed (pip install nvidia-ml-py)")
        self._owner = os.getpid()
        self._has_answered = False
        self._unanswered_since = None
        self._received = b""
        parent = pidfd_calls.open_pid(os.getpid())
        try:
            child = self._child = self._spawn(nvml.origin, parent)
        finally:
            os.close(parent)
        for pipe in filter(None, (child.stdin, child.stdout)):
            forks.keep_out(pipe)
        return child

    def _spawn(self, nvml: str, parent: int) -> subprocess.Popen[bytes]:
        return forks.spawn(
            # Isolated and without site: no environment variable and no .pth file changes what it imports.
            [python.program(), "-I", "-S", _CHILD, Path(nvml).absolute(), parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=self._env,
            start_new_session=True,  # a Ctrl-C in the terminal must not end it
        )

    def _request(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdin is None:
            raise EOFError
        child.stdin.write(b"\n")
        self._unanswered_since = time.monotonic()

    def _reply(self, child: subprocess.Popen[bytes], deadline: float) -> bytes:
        """Return the reply to the request that was sent last, as one line.

        Raises:
            TimeoutError: the reply was not complete at ``deadline``.
            EOFError: the process has ended.
            _ProbeFailedError: the reply is too long.
        """
        if child.stdout is None:
            raise EOFError
        fd, child_pidfd = child.stdout.fileno(), pidfd_calls.open_pid(child.pid)
        try:
            while not self._received.endswith(b"\n"):
                ready = pidfd.readable([fd, child_pidfd], deadline - time.monotonic())
                if not ready:
                    raise TimeoutError
                if fd not in ready and not pidfd.readable([fd], 0.0):
                    raise EOFError  # the process has ended, but another process has a copy of its end of the pipe
                chunk = child.stdout.read(65536)
                if not chunk:
                    raise EOFError
                self._received += chunk
                if len(self._received) > _LONGEST_REPLY:
                    raise _ProbeFailedError("the NVIDIA driver lists more than any machine has")
        finally:
            os.close(child_pidfd)
        reply, self._received, self._unanswered_since = self._received, b"", None
        return reply

    def _end(self, wait: float) -> int | None:
        """Kill the probe process and forget it; return its exit status, or None if it has not ended after `wait` seconds."""
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()
        if self._owner != os.getpid():
            child.returncode = 0  # in a forked child: only the parent kills and reaps the process
            return None
        child.kill()
        try:
            return child.wait(wait)
        except subprocess.TimeoutExpired:
            # The process may be stuck in the kernel for ever. Only this thread waits for it.
            threading.Thread(target=child.wait, name="vllm-magic-reap-probe", daemon=True).start()
            return None


def _cause(status: int | None) -> str:
    """Return why there is no answer of a probe process that ended with this status; None if it has not ended."""
    if status is not None and status < 0:
        end = f"died of {signal.Signals(-status).name}"
    else:
        end = f"ended with status {status}"
    return f"the NVIDIA driver could not be asked: the probe process {end}"


def _no_gpus(problem: str) -> Snapshot:
    return Snapshot(taken=time.monotonic(), gpus=(), driver=None, problem=problem)


def _snapshot(taken: float, reply: dict[str, Any]) -> Snapshot:
    return Snapshot(
        taken=taken,
        gpus=tuple(map(_gpu, reply["gpus"])),
        driver=reply["driver"],
        problem=reply["problem"],
        cuda=reply["cuda"] and tuple(reply["cuda"]),
    )


def _gpu(fields: dict[str, Any]) -> Gpu:
    listed, capability = fields.pop("processes"), fields.pop("capability")
    processes = None if listed is None else tuple(ComputeProcess(*row) for row in listed)
    return Gpu(**fields, processes=processes, capability=capability and tuple(capability))
