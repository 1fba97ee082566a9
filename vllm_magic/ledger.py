"""What is on disk: one private folder for each server, and the logs of those that have ended.

::

    STATE FOLDER                $VLLM_MAGIC_HOME, else vllm_magic in Jupyter's runtime directory
    ├── 3f9a61c2/               a living server's folder, mode 0700; the guard removes it after the release
    │   ├── record.json         whose it is and who belongs to it, see guard/record.py
    │   ├── known.json          the processes that its guards have seen, which need not carry its mark
    │   ├── shared_memory.json  what was in /dev/shm before it, which stays
    │   ├── alive               locked as long as a guard lives
    │   ├── control             the guard's socket
    │   ├── t/                  the server's TMPDIR (/tmp/vllm-3f9a61c2 where this path would be too long)
    │   └── log
    └── logs/                   the last `KEPT_LOGS` logs
        └── qwen3-3f9a61c2.vllm-magic.log

The state folder may hold other things as well. What is not called as we call it is nobody's business here, and of logs
only what has such a name is ever removed. A record is read, never believed: every path is made from the folder's own name, a process is known by its mark
or by pid and start time, and what does not fit is told and left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.guard import record as records
from vllm_magic.guard.control_socket import NAME as CONTROL
from vllm_magic.guard.record import BrokenRecordError, Phase, Record
from vllm_magic.linux import files, home, machine, marks, processes, trusted_path
from vllm_magic.linux.marks import MARK
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.linux.machine import Place
    from vllm_magic.linux.processes import Process

MAKE_ROOM = "Make room there, or set VLLM_MAGIC_HOME to a folder on another disk"
LOGS = "logs"
KEPT_LOGS = 20
# vLLM makes sockets with names of 36 characters there, and a path of a socket has at most 107 (unix(7)).
LONGEST_TMP = 70
YOUNG = 60.0  # seconds in which a folder may be without its record: it is being made
LONGEST_NAME = 100  # bytes of a log's name before the id: a name has at most 255, on eCryptfs 143
_ID = re.compile(r"[0-9a-f]{8}")
_KEPT_LOG = re.compile(r"(?P<name>.+)-(?P<id>[0-9a-f]{8})\.vllm-magic\.log")


class Condition(str, Enum):
    """What became of a server, from its record and the machine as it is now."""

    OWNED = "owned"  # its kernel lives
    KEPT = "kept"  # its kernel is gone, and its guards wait for another one
    RELEASING = "releasing"  # its kernel is gone, and somebody is releasing it
    HUNG = "hung"  # its kernel is gone, and its guards are stopped
    ORPHANED = "orphaned"  # kernel and guards are gone, and processes of it live
    LEFT = "left"  # nothing of it lives, and its files are there
    FOREIGN = "foreign"  # of another boot, machine, container or user
    TORN = "torn"  # no record that can be read


@dataclass(frozen=True)
class Folder:
    """The private folder of one server."""

    id: str
    path: Path
    tmp: Path
    log: Path
    kept_log: Path

    @property
    def mark(self) -> bytes:
        """In the environment of each process of the server."""
        return f"{MARK}={self.id}".encode()


@dataclass(frozen=True)
class Entry:
    """One private folder that was found.

    Attributes:
        path: the folder.
        condition: what became of the server.
        record: what it says; None if `TORN`.
        problem: why it is `FOREIGN` or `TORN`, else "".
    """

    path: Path
    condition: Condition
    record: Record | None
    problem: str = ""

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def folder(self) -> Folder:
        """The folder's rooms; of one without a record nothing but the log under a name of its own."""
        return _folder(self.path, self.record.name if self.record else "unknown")

    @property
    def leader(self) -> Identity | None:
        """The server's first process, if the record knows it, and it is no stranger."""
        return _leader(self.folder, self.record) if self.record else None

    @property
    def guards(self) -> tuple[Identity, ...]:
        """Its guards that live, as far as the record knows them; () where pids mean nothing."""
        if self.record is None or self.condition is Condition.FOREIGN:
            return ()
        return tuple(one.identity for one in _guards(self.record))

    @property
    def are_guards_stopped(self) -> bool:
        """Whether it has guards that live, all of them stopped by a signal or a debugger: they do nothing now."""
        if self.record is None or self.condition is Condition.FOREIGN:
            return False
        return _are_stopped(_guards(self.record))

    @property
    def processes(self) -> tuple[Process, ...]:
        """The server's living processes now; () where pids mean nothing."""
        if self.record is None or self.condition is Condition.FOREIGN:
            return ()
        return tuple(_members(self.folder, self.record))


def state_folder() -> Path:
    """Where everything is kept, made with mode 0700 if it is not there.

    Raises:
        PermissionError: it belongs to another user, or others can enter it, or have it replaced.
    """
    path = state_path()
    _check_way(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _private(path)


def state_path() -> Path:
    """Where everything is kept, whether it is there or not.

    Raises:
        OSError: it is below the home folder of a user who has none, or the working directory is gone.
    """
    told = os.environ.get("VLLM_MAGIC_HOME")
    return Path(home.expanded(told or f"{_runtime_directory()}/vllm_magic")).absolute()


def full_disk() -> str:
    """Where the state folder's disk is full, that, in one sentence without its dot; else ""."""
    try:
        path = state_path()
    except OSError:
        return ""
    return f"The disk of {path} is full" if files.is_on_full_disk(path) else ""


def create(name: str) -> Folder:
    """A new folder for a server called ``name``; old logs are cleared on the way.

    Raises:
        OSError: the folder cannot be made (no space, no permission).
    """
    root = state_folder()
    _private(root / LOGS)
    _prune()
    while True:
        folder = _folder(root / secrets.token_hex(4), name)
        if not _make(folder.path):
            continue
        made = False
        try:
            made = _make(folder.tmp)
        finally:
            if not made:
                folder.path.rmdir()
        if made:
            return folder


def called(folder: Folder, name: str) -> Folder:
    """The same folder for a server of this name: where its log is kept."""
    return _folder(folder.path, name)


def _make(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def entries(*, but: Collection[str] = ()) -> list[Entry]:
    """Every private folder in the state folder but those with these ids, oldest first; [] where there is none.

    Raises:
        PermissionError: the state folder is not this user's alone.
        OSError: it cannot be read.
    """
    paths = [path for path in folders() if path.name not in but]
    here = machine.here() if paths else None
    return [entry for path in paths if (entry := look(path, here)) is not None]


def folders() -> list[Path]:
    """The private folders in the state folder, oldest first; [] where there is none.

    Raises:
        PermissionError: the state folder is not this user's alone.
        OSError: it cannot be read.
    """
    root = state_path()
    _check_way(root)
    if not root.exists():
        return []
    return sorted((path for path in _private(root).iterdir() if _ID.fullmatch(path.name)), key=modified)


def look(path: Path, here: Place | None = None) -> Entry | None:
    """The entry of one private folder; None if it is gone, just being made, or none of ours. `here` is this place, where at hand."""
    try:
        record = records.read(str(path))
    except (FileNotFoundError, NotADirectoryError):
        if (
            not _is_ours(path) or abs(time.time() - modified(path)) < YOUNG
        ):  # the clock may have been set back
            return None
        return Entry(path, Condition.TORN, None, "it has no record")
    except (OSError, BrokenRecordError) as error:
        return Entry(path, Condition.TORN, None, getattr(error, "strerror", None) or str(error))
    if record.id != path.name:
        return Entry(path, Condition.TORN, None, f"it is a copy of {record.id[:8]!r}")
    problem = _foreign(record, here or machine.here())
    if problem:
        return Entry(path, Condition.FOREIGN, record, problem)
    return Entry(path, _condition(path, record), record)


def _is_ours(path: Path) -> bool:
    """Whether a folder without a record has something that only we make: anybody may call one by eight digits."""
    tmp = _folder(path, "").tmp
    with contextlib.suppress(OSError):
        status = tmp.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return any((path / name).exists() for name in (records.LOCK, CONTROL, "t"))


def kept_logs() -> list[tuple[str, str, Path]]:
    """Name, id and path of each log of a server that has ended; [] where there is none."""
    try:
        with os.scandir(state_path() / LOGS) as found:
            logs = [one for one in found if one.is_file(follow_symlinks=False)]
    except OSError:
        return []
    named = [(_KEPT_LOG.fullmatch(one.name), Path(one.path)) for one in logs]
    return [(match["name"], match["id"], path) for match, path in named if match]


def _condition(path: Path, record: Record) -> Condition:
    if processes.is_alive(Identity(*record.kernel)) and record.phase != Phase.KEPT:
        return Condition.OWNED
    guards = _guards(record)
    if _are_stopped(guards) and not _has_time(record):
        return Condition.HUNG
    if guards or _is_locked(path):
        return Condition.KEPT if _is_kept(record) else Condition.RELEASING
    return Condition.ORPHANED if _members(_folder(path, record.name), record) else Condition.LEFT


def _members(folder: Folder, record: Record) -> list[Process]:
    known = [Identity(*one) for one in records.read_known_processes(str(folder.path))]
    if marks.is_sealed(
        folder.mark
    ):  # a record can be edited; of the hidden ones nothing can be told, and none is signalled
        known = [one for one in known if one.start == processes.HIDDEN or marks.carries(one.pid, folder.mark)]
    return marks.members(folder.mark, _leader(folder, record), known)


def _leader(folder: Folder, record: Record) -> Identity | None:
    """The leader that the record names. A record can be edited: one that lives has to carry a mark of the server."""
    leader = Identity(*record.leader) if record.leader else None
    if leader is None or not processes.is_alive(leader):
        return leader
    return leader if marks.carries(leader.pid, folder.mark) else None


def _is_kept(record: Record) -> bool:
    if record.phase == Phase.KEPT:
        return record.kept_until is None or _has_time(record)
    # Its guards are about to write that they keep it, or had no space left for it on the disk.
    return record.keep > 0 and record.phase != Phase.STOPPING


def _guards(record: Record) -> list[Process]:
    """Those that live."""
    named = [Identity(*guard) for guard in (record.outer, record.inner) if guard]
    return [now for one in named if (now := processes.living(one))]


def _are_stopped(guards: Collection[Process]) -> bool:
    return bool(guards) and all(one.state in processes.STOPPED_STATES for one in guards)


def _has_time(record: Record) -> bool:
    """Whether its guards wrote that they keep it, until some time that is still to come."""
    return record.phase == Phase.KEPT and record.kept_for is not None and record.kept_for > 0


def _is_locked(path: Path) -> bool:
    try:
        return records.is_locked(str(path))
    except OSError:  # no guard was there, or no locks are: the identities have told
        return False


def _foreign(record: Record, now: Place) -> str:
    then = record.where
    if then.user != now.user:
        return f"it belongs to the user {then.user}"
    if then.host != now.host:
        return f"it is of the machine {then.host}"
    if then.boot != now.boot:
        return "it is from before this machine was started"
    if then.namespace != now.namespace:
        return "it is of another container (another PID namespace)"
    return ""


def _folder(path: Path, name: str) -> Folder:
    tmp = path / "t"
    if len(os.fsencode(tmp)) > LONGEST_TMP:
        tmp = Path(f"/tmp/vllm-{path.name}")  # noqa: S108 - made with mkdir(2), which takes no name that is there
    # The name comes from a record: no part of it may lead elsewhere.
    safe = re.sub(r"[^\w.-]", "-", name).encode()[:LONGEST_NAME].decode(errors="ignore")
    kept = path.parent / LOGS / f"{safe}-{path.name}.vllm-magic.log"
    return Folder(path.name, path, tmp, path / "log", kept)


def _runtime_directory() -> str:
    try:
        from jupyter_core.paths import jupyter_runtime_dir

        return jupyter_runtime_dir()
    except (ImportError, RuntimeError):  # a bare IPython; or there is no home folder, which is said later
        return "~/.local/share/jupyter/runtime"


def _check_way(path: Path) -> None:
    try:
        trusted_path.check(path)
    except PermissionError as error:
        raise PermissionError(f"{error}. Set VLLM_MAGIC_HOME to a folder of your own.") from None


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user. Set VLLM_MAGIC_HOME to a folder of your own.")
    if status.st_mode & 0o077:  # not closed to them here: it may be /tmp that was named
        raise PermissionError(
            f"{path} can be entered by others. Make it private (chmod 700), or set VLLM_MAGIC_HOME to another folder."
        )
    return path


def _prune() -> None:
    """Keep the newest logs; the guards have seen to it that none is long."""
    newest = sorted((path for *_, path in kept_logs()), key=modified, reverse=True)
    for path in newest[KEPT_LOGS - 1 :]:  # the next one makes it full
        path.unlink(missing_ok=True)


def modified(path: Path) -> float:
    """When the file was written last, in seconds since the epoch; 0.0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:  # another kernel removed it
        return 0.0
