"""The record of one server in its private folder. From it, another kernel finds the processes and files of the server.

The kernel writes the record before it starts the guards; after that, the inner guard writes it after each change. They
write a new file and rename it, so that a reader always finds a whole record, also after a crash. A lock that both guards
hold (flock(2)) shows whether they live.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.guard import validation
from vllm_magic.guard.ladder import GRACE, PATIENCE
from vllm_magic.linux.machine import Place
from vllm_magic.linux.shared_memory import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

NAME = "record.json"
LOCK = "alive"
KNOWN_PROCESSES = "known.json"
EXISTING_SEGMENTS = "shared_memory.json"
VERSION = 1
LONGEST = 2**20  # bytes; a longer file is not a record
LOCK_LIMIT = 0.1  # seconds to try to take the lock, since a check of the lock holds it for an instant


class Phase(str, Enum):
    """The phase of a server's life, as its guard knows it."""

    SPARE = "spare"  # a standby
    STARTING = "starting"
    READY = "ready"
    KEPT = "kept"  # the kernel is gone, and the server waits for another one
    STOPPING = "stopping"


class Record(NamedTuple):
    """The record of a server. An identity is [pid, start time in clock ticks]; None before the process exists.

    Attributes:
        id: the name of the private folder.
        name: the name of the server.
        model: the model.
        args: the flags of ``vllm serve``.
        url: the URL of the server.
        port: the TCP port of the server.
        gpus: the UUIDs of the GPUs that the server may use.
        chosen: whether these GPUs were chosen for the server.
        baseline: the GPUs before the start, with the fields of `gpu.devices.Gpu`.
        phase: a value of `Phase`.
        since: the time of the start, in seconds since the epoch.
        place: the fields of the `Place` in which the pids are valid.
        kernel: the identity of the kernel.
        keep: seconds for which the server waits for another kernel after the end of its kernel.
        kept_until: the time when this wait ends, by `time.monotonic`; None if the server does not wait. All processes of a
            boot share this clock (CLOCK_MONOTONIC, clock_gettime(2)), and setting the machine's clock does not change it.
        outer: the identity of the outer guard.
        inner: the identity of the inner guard.
        leader: the identity of the leader.
        segments: [device, inode] of the shared memory that the server maps.
        cluster: the address of the Ray cluster; "" for a server of this machine.
        job: the submission id of the job on the cluster; "" for a server of this machine.
        stop_grace: seconds from SIGTERM to SIGKILL when the server is stopped.
        stop_patience: the same, if SIGTERM has no effect at all.
        version: the version of this format.
    """

    id: str
    name: str
    model: str
    args: list[str]
    url: str
    port: int
    gpus: list[str]
    chosen: bool
    baseline: list[dict[str, Any]]
    phase: str
    since: float
    place: list[Any]
    kernel: list[int]
    keep: float = 0.0
    kept_until: float | None = None
    outer: list[int] | None = None
    inner: list[int] | None = None
    leader: list[int] | None = None
    segments: list[list[int]] = []  # noqa: RUF012 - never changed, only replaced
    cluster: str = ""
    job: str = ""
    stop_grace: float = GRACE
    stop_patience: float = PATIENCE
    version: int = VERSION

    @property
    def where(self) -> Place:
        """The place in which the pids of this record are valid."""
        return Place(*self.place)

    @property
    def kept_for(self) -> float | None:
        """The seconds for which the server still waits for another kernel; None if it does not wait."""
        return None if self.kept_until is None else self.kept_until - time.monotonic()


class BrokenRecordError(ValueError):
    """The file is not a record of this version; the message says why."""


def write(folder: str, record: Record) -> None:
    """Write the record of a folder, or replace it.

    This does not wait until the disk has the record (fsync(2)): a stop that comes meanwhile would wait as long as a busy
    disk takes. After a power failure there is no server that the record could help to find.

    Args:
        folder: the private folder.
        record: the record.

    Raises:
        OSError: the file cannot be written (no space, no permission, no such folder).
    """
    _replace(folder, NAME, record._asdict())


def _replace(folder: str, name: str, content: object) -> None:
    """Write the content as JSON to a new file, and rename the file to this name."""
    new = os.path.join(folder, f"{name}.{os.getpid()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(new, os.path.join(folder, name))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def read(folder: str) -> Record:
    """Return the record of a folder.

    Raises:
        BrokenRecordError: the file is not a record of this version, or belongs to another user.
        FileNotFoundError: there is no record.
        OSError: the file cannot be read.
    """
    return parse(_read_own(folder, NAME))


def _read_own(folder: str, name: str) -> bytes:
    """Return the content of a file of this user, `LONGEST` + 1 bytes at most."""
    fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.getuid():
            raise BrokenRecordError("it belongs to another user")
        return file.read(LONGEST + 1)


def parse(data: bytes) -> Record:
    """Return the record in these bytes.

    Raises:
        BrokenRecordError: the bytes are not a record of this version.
    """
    if len(data) > LONGEST:
        raise BrokenRecordError("it is too long")
    try:
        fields = json.loads(data)
        version = fields["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BrokenRecordError("it is torn, or not one of ours") from None
    if version != VERSION:
        raise BrokenRecordError(f"it is of version {version!r}, and this is {VERSION}")
    try:
        record = Record(**{name: value for name, value in fields.items() if name in Record._fields})
    except TypeError:
        raise BrokenRecordError("fields are missing") from None
    wrong = [name for name, check in _CHECKS.items() if not check(getattr(record, name))]
    if wrong:
        raise BrokenRecordError(f"{wrong[0]!r} makes no sense")
    return record


def read_known_processes(folder: str) -> list[list[int]]:
    """Return [pid, start] of the processes that the guards have seen below them; empty if the file cannot be read."""
    return _pairs(folder, KNOWN_PROCESSES) or []


def read_existing_segments(folder: str) -> set[Segment] | None:
    """Return the shared memory that existed before the server and must stay; None if the file cannot be read."""
    pairs = _pairs(folder, EXISTING_SEGMENTS)
    return None if pairs is None else {Segment(*pair) for pair in pairs}


def write_existing_segments(folder: str, segments: Collection[Segment]) -> None:
    """Write the shared memory that existed before the server, for `read_existing_segments`.

    Raises:
        OSError: the file cannot be written (no space, no permission, no such folder).
    """
    _replace(folder, EXISTING_SEGMENTS, sorted(segments))


def _pairs(folder: str, name: str) -> list[list[int]] | None:
    """Return the list of pairs in a file; None if the file cannot be read, or holds no such list."""
    try:
        content = json.loads(_read_own(folder, name))
    except (OSError, ValueError, RecursionError):
        return None
    return content if validation.pairs(content) else None


def write_known_processes(folder: str, pairs: list[list[int]]) -> None:
    """Write [pid, start] of the processes below the guards, for `read_known_processes`.

    This is a file of its own, since the outer guard writes it. The inner guard must not wait for a slow disk.

    Raises:
        OSError: the file cannot be written (no space, no permission, no such folder).
    """
    _replace(folder, KNOWN_PROCESSES, pairs)


def add_known_processes(folder: str, left: list[list[Any]]) -> None:
    """Add processes that did not end to the known processes, for a later attempt: they may have lost the server's mark.

    Args:
        folder: the private folder.
        left: [pid, start, ...] of each process. An error of the disk is ignored.
    """
    pairs = [row[:2] for row in left]
    if pairs:
        with contextlib.suppress(OSError):
            write_known_processes(
                folder, [*pairs, *(pair for pair in read_known_processes(folder) if pair not in pairs)]
            )


def hold_lock(folder: str) -> int:
    """Take the lock that shows that a guard of this server lives, and return its descriptor.

    The lock is held until the descriptor, and all copies of it, are closed.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: there is no such folder, no descriptor is free, or the file system has no locks.
    """
    fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOCK_LIMIT
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps by a check, which holds the lock for an instant
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LOCK_LIMIT / 20)
            else:
                return fd
    except OSError:
        os.close(fd)
        raise


def drop_lock(fd: int) -> None:
    """Release the lock that `hold_lock` took, even if a forked child has a copy of the descriptor."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def is_locked(folder: str) -> bool:
    """Whether a process holds the lock. This makes no file, and does not count other calls of this function.

    Raises:
        OSError: the file does not exist, or cannot be locked.
    """
    fd = os.open(os.path.join(folder, LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough if another thread forks now
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _place(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(Place._fields)
        and validation.texts(value[:-1])
        and validation.identifier(value[-1])
    )


def _identity_or_none(value: Any) -> bool:
    return value is None or validation.pair(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "id": validation.text,
    "name": validation.text,
    "model": validation.text,
    "args": validation.texts,
    "url": validation.text,
    "port": validation.identifier,
    "gpus": validation.texts,
    "chosen": lambda value: isinstance(value, bool),
    "baseline": lambda value: isinstance(value, list) and all(map(validation.fields, value)),
    "phase": lambda value: value in list(Phase),
    "since": validation.seconds,
    "place": _place,
    "kernel": validation.pair,
    "keep": validation.seconds,
    "kept_until": lambda value: value is None or validation.seconds(value),
    "outer": _identity_or_none,
    "inner": _identity_or_none,
    "leader": _identity_or_none,
    "segments": validation.pairs,
    "cluster": validation.text,
    "job": validation.text,
    "stop_grace": validation.seconds,
    "stop_patience": validation.seconds,
}
