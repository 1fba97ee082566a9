"""Report what is on this node: what is left of a job, or what the driver lists."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.cluster import wire
from vllm_magic.linux import processes
from vllm_magic.manager.manager import manager
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release import gpu_json

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL_INTERVAL = 0.2  # seconds between checks
RELEASE_LIMIT = 30.0  # seconds for the guards of a killed job to release its server
ACTORS = ("ray::", "VLLM::")  # the beginnings of the titles of processes that run an actor of an engine


def report_left(job: str, workers: Sequence[int]) -> str:
    """Wait up to `RELEASE_LIMIT` seconds until guards or a sweep have released the job's server, and report what is left.

    Args:
        job: the submission id of the job.
        workers: the pids that Ray's actors of the job had on this node.

    Returns:
        A line for the log of the helper job, see `wire`.
    """
    deadline, pause = time.monotonic() + RELEASE_LIMIT, threading.Event()
    while True:
        sweep(manager.probe)
        left = [entry for entry in ledger.entries() if entry.record and entry.record.name == job]
        living = {pid for pid in workers if processes.title(pid).startswith(ACTORS)}
        now = manager.gpus()
        living |= {
            process.pid for gpu in now.gpus for process in gpu.processes or () if process.pid in workers
        }
        if not (left or living) or time.monotonic() >= deadline:
            break
        pause.wait(POLL_INTERVAL)
    pids = [*sorted(living), *(process.identity.pid for entry in left for process in entry.processes)]
    return wire.line(wire.REPORTED, left=pids, folders=len(left), gpus=gpu_json.pack(now))


def report_gpus() -> str:
    """Return a line with the GPUs of this node, and the processes that the driver lists on them."""
    return wire.line(wire.REPORTED, gpus=gpu_json.pack(manager.gpus()))
