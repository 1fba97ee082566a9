"""Ask the NVIDIA driver about its GPUs, without ever depending on it.

NVML can hang in the kernel, crash, or need seconds to initialise, so a process of its own asks it
(nvml_child.py). It stays, since a start costs 1 to 3 s for each GPU where no persistence daemon runs, and it
is killed when it does not answer.
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

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHILD = Path(__file__).with_name("nvml_child.py")
_HANG_MEMORY = 60.0
"""Seconds for which a driver that hung is not asked again."""
_LONGEST_REPLY = 2**24
"""Bytes; a process on a GPU takes 20 of them."""
_EXIT_WAIT = 1.0
"""Seconds in which a killed process is gone, unless it hangs in the kernel."""


class _ProbeFailedError(Exception):
    """The probe process did not answer; the message says why."""


class Probe:
    """A probe process that answers for the driver. Thread-safe: one request at a time.

    The main thread never holds the lock: see `background.off_main_thread`.
    """

    def __init__(self, start_timeout: float = 15.0, env: Mapping[str, str] | None = None) -> None:
        """Prepare a probe; its process starts with the first snapshot.

        Args:
            start_timeout: seconds that the first answer of a new process may take.
            env: environment of the process, this process's by default.
        """
        self._start_timeout = start_timeout
        self._env = env
        self._closing = False
        self._lock = threading.Lock()  # guards all below
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._answered = False
        self._unanswered: float | None = None  # since when a request has no reply yet
        self._said = b""
        self._silent_until = 0.0
        self._silent_because = ""

    @property
    def pid(self) -> int | None:
        """The probe process. It has the device files open itself, so it is no proof against anybody."""
        child = self._child
        return child.pid if child else None

    def snapshot(self, timeout: float = 5.0, *, may_start: bool = True) -> Snapshot:
        """Return what the driver says now; where it says nothing, `problem` says why.

        It raises nothing, and takes no longer than `timeout`, or `start_timeout` for the first answer of a new
        process, on top of the same for a request that another thread has under way. A driver that did not
        answer is not asked again for 60 s.

        Args:
            timeout: seconds for an answer.
            may_start: False for who is in a hurry: only a process that has answered before is asked,
                `timeout` is the limit of it all, and a driver that misses it is slow, but does not hang.
        """
        return background.off_main_thread(lambda: self._snapshot(timeout, may_start=may_start))

    def _snapshot(self, timeout: float, *, may_start: bool) -> Snapshot:
        limit = timeout + (self._start_timeout if may_start else 0.0)
        if not self._lock.acquire(timeout=limit):
            return _nothing(f"the NVIDIA driver did not answer within {limit:g} s")
        try:
            if time.monotonic() < self._silent_until:
                return _nothing(self._silent_because)
            if not may_start and not self.is_warm:
                return _nothing("the NVIDIA driver was not asked, since that would take its time")
            return self._ask(timeout, patient=may_start)
        except (_ProbeFailedError, OSError, ValueError) as error:
            return _nothing(str(error))
        finally:
            self._lock.release()

    @property
    def is_warm(self) -> bool:
        """Whether there is a process that has answered before, and lives."""
        child = self._child
        return bool(child and self._answered and self._owner == os.getpid() and child.poll() is None)

    def close(self) -> None:
        """End the probe process, and a request under way in another thread; a later snapshot starts another."""
        background.off_main_thread(self._close)

    def _close(self) -> None:
        self._closing = True
        try:
            child = self._child
            if child and self._owner == os.getpid():
                child.kill()
            with self._lock:
                self._end(_EXIT_WAIT)
        finally:
            self._closing = False

    def _ask(self, timeout: float, *, patient: bool) -> Snapshot:
        child = self._running()
        if self._closing:  # looked at when there is a process: `close` kills that one, or is seen here
            raise _ProbeFailedError("the probe was closed")
        if not self._answered:
            timeout = max(timeout, self._start_timeout)
        try:
            if self._unanswered is not None:  # by one who was in a hurry: that reply is too old by now
                self._reply(child, (time.monotonic() if patient else self._unanswered) + timeout)
            taken = time.monotonic()
            self._request(child)
            reply = json.loads(self._reply(child, taken + timeout))
        except TimeoutError:
            because = f"the NVIDIA driver did not answer within {timeout:g} s"
            if patient:
                self._silent_because = because
                self._silent_until = time.monotonic() + _HANG_MEMORY
                self._end(0.0)
            raise _ProbeFailedError(because) from None
        except (EOFError, BrokenPipeError):
            raise _ProbeFailedError(_cause(self._end(_EXIT_WAIT))) from None
        except BaseException:
            self._end(0.0)  # interrupted: its reply would be taken for the next one's
            raise
        self._answered = True
        return _snapshot(taken, reply)

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the probe process, a new one where there is none that lives and is this process's own."""
        child = self._child
        if child and self._owner == os.getpid() and child.poll() is None:
            return child
        self._end(0.0)
        nvml = importlib.util.find_spec("pynvml")
        if nvml is None or nvml.origin is None:
            raise _ProbeFailedError("nvidia-ml-py is not installed (pip install nvidia-ml-py)")
        self._owner = os.getpid()
        self._answered = False
        self._unanswered = None
        self._said = b""
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
            # Isolated and without site: no environment variable and no .pth file has a say in it.
            [python.program(), "-I", "-S", _CHILD, Path(nvml).absolute(), parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=self._env,
            start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
        )

    def _request(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdin is None:
            raise EOFError
        child.stdin.write(b"\n")
        self._unanswered = time.monotonic()

    def _reply(self, child: subprocess.Popen[bytes], deadline: float) -> bytes:
        """Return the line of the reply to the one request that has none yet."""
        if child.stdout is None:
            raise EOFError
        fd, ended = child.stdout.fileno(), pidfd_calls.open_pid(child.pid)
        try:
            while not self._said.endswith(b"\n"):
                ready = pidfd.readable([fd, ended], deadline - time.monotonic())
                if not ready:
                    raise TimeoutError
                if fd not in ready and not pidfd.readable([fd], 0.0):
                    raise EOFError  # it has ended, and somebody else has a copy of its end of the pipe
                chunk = child.stdout.read(65536)
                if not chunk:
                    raise EOFError
                self._said += chunk
                if len(self._said) > _LONGEST_REPLY:
                    raise _ProbeFailedError("the NVIDIA driver lists more than any machine has")
        finally:
            os.close(ended)
        reply, self._said, self._unanswered = self._said, b"", None
        return reply

    def _end(self, wait: float) -> int | None:
        """Kill the probe process and forget it; return its exit status, None when it was not gone after `wait` s."""
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()
        if self._owner != os.getpid():
            child.returncode = 0  # a forked copy: the process is our parent's, and not ours to kill or reap
            return None
        child.kill()
        try:
            return child.wait(wait)
        except subprocess.TimeoutExpired:
            # It may be stuck in the kernel for good, so nobody but this thread waits for it.
            threading.Thread(target=child.wait, name="vllm-magic-reap-probe", daemon=True).start()
            return None


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        end = f"died of {signal.Signals(-status).name}"
    else:
        end = f"ended with status {status}"
    return f"the NVIDIA driver could not be asked: the probe process {end}"


def _nothing(problem: str) -> Snapshot:
    return Snapshot(taken=time.monotonic(), gpus=(), driver=None, problem=problem)


def _snapshot(taken: float, reply: dict[str, Any]) -> Snapshot:
    return Snapshot(
        taken=taken, gpus=tuple(map(_gpu, reply["gpus"])), driver=reply["driver"], problem=reply["problem"]
    )


def _gpu(fields: dict[str, Any]) -> Gpu:
    listed = fields.pop("processes")
    processes = None if listed is None else tuple(ComputeProcess(*row) for row in listed)
    return Gpu(**fields, processes=processes)
