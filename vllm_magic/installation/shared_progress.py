"""One installation at a time for each environment: a lock, and the progress in a file, which other kernels show meanwhile.

Both files stand beside the environment's folder: ``.NAME.lock`` and ``.NAME.progress``. Linux drops the lock when the kernel that
holds it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.engine import environments
from vllm_magic.errors import InstallFailed, reason
from vllm_magic.installation.progress import InstallProgress, from_json, to_json
from vllm_magic.linux import disk, files, forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RETRY_INTERVAL = 0.5  # seconds between two attempts to take the lock; flock has no time limit
WRITE_INTERVAL = 0.5  # seconds between two writes of the progress
LONGEST_PROGRESS = 2**17  # bytes; the progress of a hundred packages takes 5 kB


class SharedProgress:
    """The progress of one installation, for this kernel and for others.

    Args:
        folder: the folder of the environment.
        report: called with the progress.
    """

    def __init__(self, folder: Path, report: Callable[[InstallProgress], None]) -> None:
        self._lock = environments.lock_path(folder)
        self._file = folder.with_name(f".{folder.name}.progress")
        self._report = report
        self._written = 0.0
        self._step = ""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock. While another kernel holds it, the progress that it writes is reported.

        Raises:
            InstallFailed: the disk has no locks, is read-only, or does not answer.
        """
        try:
            # The disk answers: the caller has just asked it. An open file cannot come from another process.
            with self._lock.open("wb") as lock:
                forks.keep_out(lock)
                pause = threading.Event()
                while not _is_taken(lock.fileno()):
                    self._report(self._of_other())
                    pause.wait(RETRY_INTERVAL)
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        disk.call(self._file, _unlink, self._file)
        except InstallFailed:
            raise
        except OSError as error:
            if error.errno in files.NO_LOCKS:
                cause = f"The disk of {self._lock.parent} has no file locks"
                raise InstallFailed(
                    cause, "Install into a folder on a disk of this machine: --into DIR"
                ) from None
            raise InstallFailed(
                f"{self._lock.parent} cannot be written: {reason(error)}",
                "Install into another folder: --into DIR",
            ) from None

    def was_cut_off(self) -> bool:
        """Whether an earlier installation into this folder was killed: it has left its progress."""
        try:
            return disk.call(self._file, os.path.exists, self._file)
        except OSError:
            return False

    def show(self, progress: InstallProgress) -> None:
        """Report the progress, and write it for other kernels, not too often."""
        now = time.monotonic()
        if progress.text != self._step or now - self._written >= WRITE_INTERVAL:
            self._step, self._written = progress.text, now
            with contextlib.suppress(OSError):  # other kernels then see an older progress
                disk.call(self._file, _replace, self._file, to_json(progress))
        self._report(progress)

    def _of_other(self) -> InstallProgress:
        try:
            return from_json(disk.call(self._file, files.read_regular, self._file, LONGEST_PROGRESS))
        except (OSError, ValueError):
            return InstallProgress()


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.replace(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
