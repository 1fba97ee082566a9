"""Locks between real processes: a start waits for every release on its GPUs, and for nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllm_magic.gpu import locks
from vllm_magic.gpu.locks import ReleaseLocks, lock_paths, wait_for_releases

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 60.0  # seconds; no test waits this long unless it fails
SHORT = 0.2

# As the guard does it: by path, with the standard library alone.
RELEASING = """
import fcntl, os, sys
for path in sys.argv[1:]:
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_SH)
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the locks of a test away from those of real kernels."""
    monkeypatch.setattr(locks, "_PARENT", tmp_path)
    return tmp_path / f"vllm-magic-{os.getuid()}"


@contextlib.contextmanager
def releasing_elsewhere(*uuids: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process with a release under way."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", RELEASING, *map(str, lock_paths(uuids))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def can_start(*uuids: str, timeout: float = SHORT) -> bool:
    return wait_for_releases(uuids, timeout, threading.Event())


def test_a_start_waits_for_a_release_in_another_process_that_is_killed() -> None:
    with releasing_elsewhere("GPU-a") as process:
        assert not can_start("GPU-a")
        killer = threading.Timer(SHORT, process.kill)
        killer.start()
        assert can_start("GPU-a", timeout=LONG)
        assert process.wait() != 0
        killer.join()


def test_a_start_waits_for_all_releases_on_all_its_gpus() -> None:
    with ReleaseLocks(["GPU-a"]), releasing_elsewhere("GPU-a", "GPU-b") as process:
        assert not can_start("GPU-b", "GPU-c")
        assert can_start("GPU-c")
        process.kill()
        process.wait()
        assert can_start("GPU-b", "GPU-c")
        assert not can_start("GPU-a")


def test_a_start_releases_its_locks() -> None:
    assert can_start("GPU-a")
    with ReleaseLocks(["GPU-a"]), releasing_elsewhere("GPU-a"):
        pass
