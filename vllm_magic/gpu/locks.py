"""Locks across kernels: no server starts on a GPU while a release is under way there.

vLLM fails when another process gives memory back while vLLM measures ("Error in memory profiling"). So each
GPU has a lock file in a private folder. A release holds a shared flock(2) on the files of its GPUs. A start
waits until it can take the exclusive lock, and drops it at once. Linux drops the locks of a process that dies.
Servers of other users are not seen.

All kernels of a user must agree on the folder, so it does not depend on the environment: one kernel may have
$XDG_RUNTIME_DIR, and another kernel, started by a service, may not. The folder is the first of these that
this user can have alone: in /run/user/UID, if systemd has made that; in /tmp; in the home directory that the
system knows. In /tmp, any user can make a folder of that name and keep this user out, hence the home
directory. A start checks all three, since the first choice may change: /run/user/UID is removed when the
user's last login ends. If this user can have none of them, nothing is locked, and `lock_problem` says so.
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

from vllm_magic.linux import disk, files, lookups, trusted_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from vllm_magic.linux.latch import Latch

_RUN = Path("/run/user")
_PARENT = Path("/tmp")  # noqa: S108 - not $TMPDIR: all kernels must agree; `_is_private` checks the folder
_UUID = re.compile(r"[A-Za-z0-9-]+")
_SHARE_LIMIT = 0.5  # seconds
_RETRY_INTERVAL = 0.05  # seconds between two attempts; flock has no time limit
# The number of attempts that must find a lock taken before a holder that /proc/locks does not show counts as a release.
_ATTEMPTS = 3


def lock_paths(uuids: Iterable[str]) -> tuple[Path, ...]:
    """Return the lock file of each GPU, and make missing ones; empty if there is no folder for them.

    Raises:
        OSError: a file cannot be made, or is a link.
        ValueError: a UUID is not valid.
    """
    uuids = tuple(uuids)
    folder = _make_folder() if uuids else None
    return tuple(_lock_file(folder, uuid) for uuid in uuids) if folder else ()


class ReleaseLocks:
    """Holds the shared locks of some GPUs, as a context manager: a release is under way on them."""

    def __init__(self, uuids: Iterable[str]) -> None:
        """Set the GPUs. `__enter__` takes the locks that are available; it raises the errors of `lock_paths`."""
        self._uuids = tuple(uuids)
        self._held = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as taken:
            for path in lock_paths(self._uuids):
                _lock_shared(_open(path, taken))
            self._held = taken.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _lock_shared(lock: int) -> None:
    """Take the shared lock, or go on without it after `_SHARE_LIMIT` seconds.

    A start holds the exclusive lock only for an instant, unless its process is stopped right then. A release
    must not wait for such a process.
    """
    deadline = time.monotonic() + _SHARE_LIMIT
    pause = threading.Event()
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        pause.wait(_RETRY_INTERVAL / 5)


def wait_for_releases(uuids: Iterable[str], timeout: float, cancelled: Latch) -> bool:
    """Wait until no release is under way on any of the GPUs.

    Args:
        uuids: the GPUs.
        timeout: the longest wait, in seconds.
        cancelled: set by another thread to end the wait.

    Returns:
        True if all were free at one moment; False if the time was up or the wait was cancelled.

    Raises:
        OSError: a lock file cannot be made, or is a link.
        ValueError: a UUID is not valid.
    """
    uuids = tuple(uuids)
    paths = {*lock_paths(uuids), *(folder / f"{uuid}.lock" for folder in _usable_folders() for uuid in uuids)}
    deadline = time.monotonic() + timeout
    while not _are_free(paths):
        if time.monotonic() >= deadline or cancelled.wait(_RETRY_INTERVAL):
            return False
    return True


def releases_under_way() -> dict[str, tuple[int, ...]]:
    """Return the GPUs on which a release of this user is under way, by UUID, with the pids that hold their locks.

    The pids are those of proc_locks(5): none for a holder in another PID namespace. The lock that a start takes for a
    moment is no release. This function makes no folder or file.

    Raises:
        OSError: a folder cannot be read.
    """
    found: dict[str, set[int]] = {}
    unclear = _lock_files()
    for attempt in range(_ATTEMPTS):
        if attempt:
            threading.Event().wait(_RETRY_INTERVAL)
        busy = [path for path in unclear if not _are_free([path])]
        holders = _holders("READ") if busy else {}
        for path in busy:
            if pids := holders.get(_file(path)):
                found.setdefault(path.stem, set()).update(pids)
        # The holder is a release in another PID namespace, or a start. Only a release still holds the lock after a while.
        unclear = [path for path in busy if not holders.get(_file(path))]
        if not unclear:
            break
    for path in unclear:
        found.setdefault(path.stem, set())
    return {uuid: tuple(sorted(found[uuid])) for uuid in sorted(found)}


def lock_problem() -> str:
    """Return why nothing can be locked, in one sentence; "" if locks work. This function makes no folder or file."""
    places = _candidate_folders()
    if any(_is_private(place) or (_can_be_made(place) and not os.path.lexists(place)) for place in places):
        return ""
    path = folder_path()
    return (
        f"{path} is not a folder of yours alone, so a start does not wait for the releases of other kernels"
    )


def _lock_files() -> list[Path]:
    """Return the lock files in all folders. A folder that vanishes meanwhile has none.

    Raises:
        OSError: a folder cannot be read.
    """
    found: list[Path] = []
    for folder in _usable_folders():
        with suppress(FileNotFoundError):
            found += [path for path in folder.iterdir() if path.suffix == ".lock"]
    return sorted(found)


def _holders(kind: str) -> dict[tuple[int, int], set[int]]:
    """Return the pids that hold a flock, by the device and inode of the locked file.

    Args:
        kind: "READ" for the shared locks of releases, "WRITE" for the exclusive lock of a start.
    """
    found: dict[tuple[int, int], set[int]] = {}
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return found
    for line in lines:
        _, *fields = line.split()
        if fields[:1] == ["FLOCK"] and fields[2] == kind:
            major, minor, inode = fields[4].split(":")
            file = os.makedev(int(major, 16), int(minor, 16)), int(inode)
            found.setdefault(file, set()).add(int(fields[3]))
    return found


def _file(path: Path) -> tuple[int, int]:
    """Return the device and inode of a file; (0, 0), which no file has, if it has vanished."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino


def _are_free(paths: Iterable[Path]) -> bool:
    """Whether no release holds any of the locks. The exclusive lock of a start, which /proc/locks shows, does not count."""
    with ExitStack() as taken:
        try:
            for path in paths:
                try:
                    fcntl.flock(_open(path, taken), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except FileNotFoundError:
                    continue
                except BlockingIOError:
                    # No lock is shared and exclusive at once.
                    if _file(path) not in _holders("WRITE"):
                        return False
        except OSError as error:
            if error.errno not in files.NO_LOCKS:  # a home on a network's disk may have no locks
                raise
    return True


def _open(path: Path, stack: ExitStack) -> int:
    """Open a lock file until `stack` closes, and return its file descriptor."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack.callback(os.close, lock)
    # Closing alone is not enough: a forked child that also has the file open would keep the lock.
    stack.callback(fcntl.flock, lock, fcntl.LOCK_UN)
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
    """Return the path of the folder in /tmp, whether the folder exists or not."""
    return _PARENT / f"vllm-magic-{os.getuid()}"


def _candidate_folders() -> list[Path]:
    """Return the possible folders, in order of preference."""
    home = _home()
    return [
        _RUN / str(os.getuid()) / "vllm-magic",
        folder_path(),
        *([home / ".vllm-magic-locks"] if home else []),
    ]


def _home() -> Path | None:
    """Return the home directory in the system's user database; None if it is not found in time.

    $HOME is not used, since all kernels must agree.
    """
    try:
        return Path(lookups.user(os.getuid()).pw_dir)
    except (KeyError, OSError):
        return None


def _usable_folders() -> list[Path]:
    return [place for place in _candidate_folders() if _is_private(place)]


def _make_folder() -> Path | None:
    """Return the first folder that this user can have alone, and create it if it is missing; None if there is none."""
    for place in _candidate_folders():
        if _can_be_made(place):
            with suppress(OSError):
                place.mkdir(mode=0o700)
        if _is_private(place):
            return place
    return None


def _can_be_made(place: Path) -> bool:
    """Whether this user can make the folder, and no other user can redirect its path.

    The user may be unable to make it in the home, which may be on a read-only disk.
    """
    try:
        return disk.call(place.parent, _is_writable, place.parent)
    except OSError:
        return False


def _is_writable(folder: Path) -> bool:
    trusted_path.check(folder)
    return folder.is_dir() and os.access(folder, os.W_OK)


def _is_private(folder: Path) -> bool:
    try:
        status = disk.call(folder, os.lstat, folder)
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return ours and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
