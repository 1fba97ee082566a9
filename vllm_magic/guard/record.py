"""The record of one server in its private folder: how the next kernel finds what was left.

The kernel writes it before it starts the guards, the inner guard after that, each time something changes. Both
write a new file and rename it, so a reader, and the disk after a crash, has one version or the other.
Whether the guards live is told by the lock that both hold (flock(2)), not by a pid.
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
from vllm_magic.linux.machine import Place
from vllm_magic.linux.shared_memory import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

NAME = "record.json"
LOCK = "alive"
KNOWN = "known.json"
BEFORE = "shared_memory.json"
VERSION = 1
LONGEST = 2**20  # bytes; what is longer is not ours
LOOK_LIMIT = 0.1  # seconds; who looks at the lock holds it for an instant


class Phase(str, Enum):
    """How far the server is, as far as its guard knows."""

    SPARE = "spare"  # imported, and not told what to serve
    STARTING = "starting"
    READY = "ready"
    KEPT = "kept"  # its kernel is gone, and it waits for another one
    STOPPING = "stopping"


class Record(NamedTuple):
    """Identities are [pid, start time in clock ticks], None before they are there; ``since`` in seconds since the epoch.

    ``kept_until`` is by `time.monotonic`, which is the same in all processes of a boot (CLOCK_MONOTONIC,
    clock_gettime(2)) and goes on where the machine's clock is set.

    ``gpus`` are the UUIDs that it may use, ``chosen`` whether somebody chose them, ``baseline`` the GPUs before
    its start (the fields of `gpu.devices.Gpu`), ``segments`` the shared memory that it mapped as [device, inode].
    ``job`` is the id of its job on the Ray cluster at ``cluster``; "" for a server of this machine.
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
    version: int = VERSION

    @property
    def where(self) -> Place:
        """Where its pids mean anything."""
        return Place(*self.place)

    @property
    def kept_for(self) -> float | None:
        """Seconds for which it still waits for another kernel; None unless its guards have written that."""
        return None if self.kept_until is None else self.kept_until - time.monotonic()


class BrokenRecordError(ValueError):
    """What lies there is not a record that this version wrote; the message says why."""


def write(folder: str, record: Record, *, durable: bool = True) -> None:
    """Replace the record of a folder; ``durable`` makes it outlast a failure of the machine's power, which takes time.

    Raises:
        OSError: no space, no permission, no such folder.
    """
    _replace(folder, NAME, record._asdict(), durable=durable)


def _replace(folder: str, name: str, content: object, *, durable: bool) -> None:
    new = os.path.join(folder, f"{name}.{os.getpid()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            if durable:
                os.fsync(fd)
        os.replace(new, os.path.join(folder, name))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def read(folder: str) -> Record:
    """The record of a folder.

    Raises:
        BrokenRecordError: it is torn, or not of ours.
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    return parse(_own(folder, NAME))


def _own(folder: str, name: str) -> bytes:
    fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.getuid():
            raise BrokenRecordError("it belongs to another user")
        return file.read(LONGEST + 1)


def parse(data: bytes) -> Record:
    """The record in these bytes.

    Raises:
        BrokenRecordError: there is none.
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


def known(folder: str) -> list[list[int]]:
    """The processes that the guards have seen below them, as [pid, start]; none where that cannot be read."""
    return _pairs(folder, KNOWN) or []


def before(folder: str) -> set[Segment] | None:
    """The shared memory that was there before the server, which is not to be removed; None where that cannot be read."""
    pairs = _pairs(folder, BEFORE)
    return None if pairs is None else {Segment(*pair) for pair in pairs}


def write_before(folder: str, segments: Collection[Segment]) -> None:
    """Have others than the guards know what `before` tells.

    Raises:
        OSError: no space, no permission, no such folder.
    """
    _replace(folder, BEFORE, sorted(segments), durable=False)


def _pairs(folder: str, name: str) -> list[list[int]] | None:
    try:
        found = json.loads(_own(folder, name))
    except (OSError, ValueError, RecursionError):
        return None
    return found if validation.pairs(found) else None


def write_known(folder: str, pairs: list[list[int]]) -> None:
    """Replace what `known` tells. It has a file of its own, since the outer guard writes it: a disk may hang.

    Raises:
        OSError: no space, no permission, no such folder.
    """
    _replace(folder, KNOWN, pairs, durable=False)


def remember(folder: str, left: list[list[Any]]) -> None:
    """Add who would not end ([pid, start, ...] each) to what is `known`, for the next who tries: a mark may not tell."""
    pairs = [row[:2] for row in left]
    if pairs:
        with contextlib.suppress(OSError):
            write_known(folder, [*pairs, *(one for one in known(folder) if one not in pairs)])


def hold_lock(folder: str) -> int:
    """Take the lock that says "the guards of this server live"; a descriptor to be closed, or kept until the end.

    Raises:
        BlockingIOError: somebody has it.
        OSError: there is no such folder, or no descriptor is free.
    """
    fd = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOOK_LIMIT
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # by somebody who is just looking, perhaps
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LOOK_LIMIT / 20)
            else:
                return fd
    except OSError:
        os.close(fd)
        raise


def drop_lock(fd: int) -> None:
    """Give back the lock that `hold_lock` took, also where a forked child has a copy of the descriptor."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def is_locked(folder: str) -> bool:
    """Whether somebody holds the lock. Nothing is made for it, and those who look do not see each other.

    Raises:
        OSError: the file is not there, or cannot be locked.
    """
    fd = os.open(os.path.join(folder, LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)  # the close is not enough if another thread forks now
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
}
