"""Locks across kernels: no server starts on a GPU on which a release is still under way.

vLLM fails when another process gives memory back while it measures ("Error in memory profiling"). So there is
one file for each GPU, in a private folder: a release holds a shared flock(2) on those of its GPUs, and a start
waits until it can take the exclusive one, and drops it again. The kernel drops the locks of a process that
dies. Servers of other users are not seen.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

_PARENT = Path("/tmp")  # noqa: S108 - not $TMPDIR: two kernels must agree; `_folder` sees to it that it is safe
_UUID = re.compile(r"[A-Za-z0-9-]+")
_SHARE_LIMIT = 0.5  # seconds
_CADENCE = 0.05  # seconds; flock has no wait with a time limit


def lock_paths(uuids: Iterable[str]) -> tuple[Path, ...]:
    """Return the lock file of each GPU, made where it is missing.

    Raises:
        PermissionError: the folder of the locks is not ours alone.
        ValueError: a word that is no UUID.
    """
    uuids = tuple(uuids)
    if not uuids:
        return ()
    folder = _folder()
    return tuple(_lock_file(folder, uuid) for uuid in uuids)


class ReleaseLocks:
    """Holds the shared locks of some GPUs, as a context manager: a release is under way on them."""

    def __init__(self, uuids: Iterable[str]) -> None:
        """Name the GPUs; entering takes the locks, and raises what `lock_paths` raises."""
        self._uuids = tuple(uuids)
        self._held = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as taken:
            for path in lock_paths(self._uuids):
                _share(_opened(path, taken))
            self._held = taken.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _share(lock: int) -> None:
    """Take the shared lock. A start holds the exclusive one for an instant only, unless it is stopped right then.

    A release must not wait for that: after `_SHARE_LIMIT` it goes on without.
    """
    deadline = time.monotonic() + _SHARE_LIMIT
    pause = threading.Event()
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        pause.wait(_CADENCE / 5)


def wait_for_releases(uuids: Iterable[str], timeout: float, cancelled: threading.Event) -> bool:
    """Wait until no release is under way on any of the GPUs.

    Args:
        uuids: the GPUs.
        timeout: seconds to wait at most.
        cancelled: set by another thread to end the wait.

    Returns:
        True when all were free at one moment; False when the time was up or the wait was cancelled.

    Raises:
        PermissionError: the folder of the locks is not ours alone.
        ValueError: a word that is no UUID.
    """
    paths = lock_paths(uuids)
    deadline = time.monotonic() + timeout
    while not _are_free(paths):
        if time.monotonic() >= deadline or cancelled.wait(_CADENCE):
            return False
    return True


def under_way() -> dict[str, tuple[int, ...]]:
    """The GPUs on which a release of this user is under way, by UUID, and who holds their locks.

    The pids are what proc_locks(5) tells: none for a holder in another PID namespace. Nothing is made for it.

    Raises:
        PermissionError: the folder of the locks is not ours alone.
    """
    if not folder_path().exists():
        return {}
    busy = [path for path in sorted(_folder().glob("*.lock")) if not _are_free([path])]
    holders = _holders() if busy else {}
    return {path.stem: tuple(sorted(holders.get(_file(path), ()))) for path in busy}


def _holders() -> dict[tuple[int, int], set[int]]:
    """The pids that hold a shared flock, by device and inode of the file."""
    found: dict[tuple[int, int], set[int]] = {}
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return found
    for line in lines:
        _, *fields = line.split()
        if fields[:1] == ["FLOCK"] and fields[2] == "READ":
            major, minor, inode = fields[4].split(":")
            file = os.makedev(int(major, 16), int(minor, 16)), int(inode)
            found.setdefault(file, set()).add(int(fields[3]))
    return found


def _file(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _are_free(paths: Iterable[Path]) -> bool:
    with ExitStack() as taken:
        try:
            for path in paths:
                fcntl.flock(_opened(path, taken), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _opened(path: Path, stack: ExitStack) -> int:
    """Open a lock file until `stack` closes."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack.callback(os.close, lock)
    stack.callback(
        fcntl.flock, lock, fcntl.LOCK_UN
    )  # a forked child that has it open too would keep the lock
    return lock


def _lock_file(folder: Path, uuid: str) -> Path:
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"{uuid!r} is not the UUID of a GPU")
    path = folder / f"{uuid}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.utime(lock)  # so that a cleaner of old files leaves it alone
    finally:
        os.close(lock)
    return path


def folder_path() -> Path:
    """Where the lock files are, whether that is there or not."""
    return _PARENT / f"vllm-magic-{os.getuid()}"


def _folder() -> Path:
    folder = folder_path()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not ours or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PermissionError(f"{folder} is not a folder of yours with mode 0700: look at it and remove it")
    return folder
