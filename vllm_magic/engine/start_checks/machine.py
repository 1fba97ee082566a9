"""Refuse a start for which this machine has too little shared memory, or too little room for processes and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine import command, versions
from vllm_magic.engine.start_checks import all_problems
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.linux import limits
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

PORT = "VLLM_PORT"
LEAST_FILES = 64  # vLLM 0.32 for CPUs fails with this limit, and starts with 128
# Two guards, the API server and the engine, each with two threads of ZeroMQ; vLLM starts many more.
LEAST_PROCESSES = 8
# Before a worker makes the queue for its results, it checks that /dev/shm has room for 10 chunks of 24 MiB, with two flags for
# each (check_shm_free_space and MessageQueue in distributed/device_communicators/shm_broadcast.py of vLLM 0.28 to 0.33).
SHARED_MEMORY = 10 * (24 * 2**20 + 2)
_CHECKS_SHARED_MEMORY = (0, 28)
# The values of --distributed-executor-backend with which vLLM makes such queues.
_MULTIPLE_PROCESSES = (None, "mp")


@dataclass(frozen=True)
class MachineProblem:
    """Why servers do not start on this machine.

    Attributes:
        cause: what is wrong.
        remedy: what to do about it.
        command: the command line of the remedy.
    """

    cause: str
    remedy: str
    command: str


def check(start: PlannedStart) -> None:
    """Check vLLM's port for its processes, the limits of processes, and the shared memory.

    Raises:
        InvalidOption: the port is not a number.
        StartFailed: the machine lacks something.
    """
    all_problems.check((_check_vllm_port, _check_limits), start)


def _check_limits(start: PlannedStart) -> None:
    errors = [StartFailed(one.cause, one.remedy) for one in problems(_workers(start), start.version)]
    all_problems.tell(errors)


def problems(workers: int, version: str) -> Iterator[MachineProblem]:
    """Yield the reasons why a server with this many workers does not start on this machine.

    Args:
        workers: the number of processes that vLLM starts for its GPUs, or 1.
        version: the version of vLLM; "" if it is not known.
    """
    files = limits.open_files()
    if files is not None and files < LEAST_FILES:
        yield MachineProblem(
            f"A process may open {files} files here, and vLLM opens more than {LEAST_FILES}",
            "Raise the limit before the kernel is started: ulimit -n 65535",
            "ulimit -n 65535",
        )
    left = limits.processes_left()
    if left is not None and left < LEAST_PROCESSES:
        yield MachineProblem(
            f"Only {left} more processes and threads are allowed here, and vLLM starts more than {LEAST_PROCESSES}",
            "End some processes, or raise the limit (ulimit -u, or docker run --pids-limit)",
            "ulimit -u",
        )
    free = limits.free_shared_memory()
    release = versions.parse(version)
    certain = release is not None and _CHECKS_SHARED_MEMORY <= release <= versions.NEWEST
    if workers > 1 and certain and free is not None and free < SHARED_MEMORY:
        yield MachineProblem(
            f"{limits.SHARED_MEMORY} has {gib(free)} free, and vLLM needs {gib(SHARED_MEMORY)} for several GPUs",
            "Make it larger: docker run --shm-size=8g, or --ipc=host",
            f"sudo mount -o remount,size=8G {limits.SHARED_MEMORY}",
        )


def _check_vllm_port(start: PlannedStart) -> None:
    text = start.environ.get(PORT)
    is_set = any(name == PORT for name, _ in start.spec.env)
    if text is None or (not is_set and command.is_of_kubernetes(PORT, text)):
        return
    try:
        int(text)
    except ValueError:
        remedy = f"Leave out --env {PORT}" if is_set else f"Remove it: del os.environ[{PORT!r}]"
        raise InvalidOption(
            f"The environment variable {PORT} is '{text}', and vLLM needs a number there. {remedy}."
        ) from None


def _workers(start: PlannedStart) -> int:
    if start.value("--distributed-executor-backend") not in _MULTIPLE_PROCESSES or start.has(
        "--nnodes", "-n"
    ):
        return 1
    return start.pipeline_parallel_size * start.tensor_parallel_size
