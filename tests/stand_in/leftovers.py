"""What vLLM leaves behind: sockets in TMPDIR, always; /dev/shm segments and a semaphore, after a kill.

They are made by Python's own multiprocessing, with its resource tracker, as vLLM's are. Their names carry a mark of
the state folder (`mark_of`), so that a test can tell its own from those of a test that runs beside it.
"""

from __future__ import annotations

import getpass
import mmap
import multiprocessing
import os
import socket
import tempfile
import uuid
import zlib
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

# The variable with the path of the test's state folder: VLLM_MAGIC_HOME does not reach a server.
HOME = "STAND_IN_HOME"
_kept: list[object] = []  # open, locked or mapped for as long as the process lives


def mark_of(home: str) -> str:
    """Return what the names in /dev/shm of a server with this state folder have in common."""
    return f"{zlib.crc32(os.fsencode(home)):08x}"


def start_tracker() -> None:
    """Start multiprocessing's resource tracker: ignores SIGINT and SIGTERM, ends when its last client has."""
    resource_tracker.ensure_running()


def sockets(count: int) -> None:
    """Bind `count` ZeroMQ-like sockets with UUID names, and make a compiler's cache folder; nobody removes them.

    Raises:
        OSError: "AF_UNIX path too long", as in vLLM, where TMPDIR is too long.
    """
    folder = os.environ.get("VLLM_RPC_BASE_PATH", tempfile.gettempdir())
    for _ in range(count):
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(f"{folder}/{uuid.uuid4()}")
        _kept.append(bound)
    (Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}").mkdir(exist_ok=True)


def semaphore() -> None:
    """Make one /dev/shm/sem.mp-MARK-*; a normal exit of this process unlinks it."""
    multiprocessing.current_process()._config["semprefix"] = f"/mp-{_mark()}"
    _kept.append(multiprocessing.get_context("spawn").Lock())


def segments(count: int) -> list[shared_memory.SharedMemory]:
    """Make and map `count` /dev/shm/psm_MARK_* of 1 MiB."""
    names = [f"psm_{_mark()}_{uuid.uuid4().hex[:8]}" for _ in range(count)]
    return [shared_memory.SharedMemory(name, create=True, size=1 << 20) for name in names]


def weights(path: str | None) -> None:
    """Map a file that was there before."""
    if path is not None:
        with Path(path).open("rb") as file:
            _kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def unlink(made: list[shared_memory.SharedMemory]) -> None:
    """Unlink `made`, as a clean tear-down does."""
    for segment in made:
        segment.close()
        segment.unlink()


def _mark() -> str:
    return mark_of(os.environ.get(HOME, ""))
