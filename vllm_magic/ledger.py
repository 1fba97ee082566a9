"""The files on disk: a private folder for each server, and the logs of servers that have ended.

::

    STATE FOLDER                $VLLM_MAGIC_HOME, else vllm_magic in Jupyter's runtime directory
    ├── 3f9a61c2/               the folder of a living server, mode 0700; the guard removes it after the release
    │   ├── record.json         the server and its processes, see guard/record.py
    │   ├── known.json          the processes that the guards have seen; they may have lost the server's mark
    │   ├── shared_memory.json  the files in /dev/shm that existed before the server, which stay
    │   ├── alive               locked while a guard lives
    │   ├── control             the guard's socket
    │   ├── t/                  the server's TMPDIR (/tmp/vllm-3f9a61c2 if this path would be too long)
    │   └── log                 (in /tmp/vllm-3f9a61c2, as the TMPDIR, if the disk may hang: a network's, or FUSE)
    └── logs/                   the last `KEPT_LOGS` logs
        └── qwen3-3f9a61c2.vllm-magic.log

The state folder may contain other files, which are left alone: only folders and logs with such names are used or removed. A
record can be edited, so it is not trusted: every path is made from the folder's own name, and a process is identified by the
server's mark, or by pid and start time. A folder that does not fit is reported and left alone.

No function here waits longer than `linux.disk.LIMIT` for a disk that does not answer; it raises a `TimeoutError` then.
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
from typing import TYPE_CHECKING, Any

from vllm_magic.guard import folder as folder_content
from vllm_magic.guard import record as records
from vllm_magic.guard.control_socket import SOCKET_NAME as CONTROL
from vllm_magic.guard.record import BrokenRecordError, Phase, Record
from vllm_magic.linux import disk, files, home, machine, marks, processes, shortage, trusted_path
from vllm_magic.linux.marks import MARK
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.linux.machine import Place
    from vllm_magic.linux.processes import Process
    from vllm_magic.linux.shared_memory import Segment

MAKE_ROOM = "Make room there, or set VLLM_MAGIC_HOME to a folder on another disk"
LOGS = "logs"
KEPT_LOGS = 20
# Bytes of the path of a TMPDIR: vLLM makes sockets with names of 36 characters there, and a path of a socket has at most 107
# bytes (unix(7)).
LONGEST_TMP = 70
CREATION_LIMIT = 60.0  # seconds for a new folder to get its record
LONGEST_NAME = 100  # bytes of a log's name before the id: a name has at most 255 bytes, on eCryptfs 143
_ID = re.compile(r"[0-9a-f]{8}")
_KEPT_LOG = re.compile(r"(?P<name>.+)-(?P<id>[0-9a-f]{8})\.vllm-magic\.log")


class Condition(str, Enum):
    """The condition of a server, from its record and the processes of the machine."""

    OWNED = "owned"  # its kernel lives, and a guard or a process of it
    KEPT = "kept"  # its kernel is gone, and its guards wait for another kernel
    RELEASING = "releasing"  # its kernel is gone, and its guards or a sweep are releasing it
    HUNG = "hung"  # its kernel is gone, and its guards are stopped
    ORPHANED = "orphaned"  # its kernel and its guards are gone, and processes of it live
    LEFT = "left"  # no process of it lives, and its files exist
    FOREIGN = "foreign"  # it is of another boot, machine, container or user
    TORN = "torn"  # it has no record, or the record cannot be read


@dataclass(frozen=True)
class Folder:
    """The paths of one server.

    Attributes:
        id: the name of the private folder.
        path: the private folder.
        tmp: the server's TMPDIR.
        log: the log of the living server.
        kept_log: the path to which the log is moved at the end.
    """

    id: str
    path: Path
    tmp: Path
    log: Path
    kept_log: Path

    @property
    def mark(self) -> bytes:
        """``b"NAME=value"`` in the environment of each process of the server."""
        return f"{MARK}={self.id}".encode()

    def clear(self) -> str:
        """Move the log to its final place, and remove the rest. Return a sentence about what is left; "" for nothing."""
        paths = map(str, (self.path, self.tmp, self.log, self.kept_log))
        try:
            return disk.call(
                self.path, folder_content.clear, *paths, limit=folder_content.CLEAR_LIMIT + disk.LIMIT
            )
        except TimeoutError:
            return f"{self.path} could not be removed, because its disk does not answer"
        except OSError as error:  # no process can be started
            return f"{self.path} could not be removed ({error})"

    def discard(self) -> None:
        """Remove the folders of a server that never ran, without a log to keep."""
        with contextlib.suppress(OSError):
            disk.call(self.path, folder_content.discard, *map(str, (self.path, self.tmp, self.log)))


@dataclass(frozen=True)
class Entry:
    """A private folder that was found on disk.

    Attributes:
        path: the folder.
        condition: the condition of the server.
        record: the record of the server; None if `TORN`.
        problem: why the condition is `FOREIGN` or `TORN`; else "".
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
        """The paths of the server. Without a record, the name of the kept log begins with "unknown"."""
        return _folder(self.path, self.record.name if self.record else "unknown")

    @property
    def leader(self) -> Identity | None:
        """The leader, if the record names it; None if the named process lives and does not belong to the server."""
        return _leader(self.folder, self.record) if self.record else None

    @property
    def guards(self) -> tuple[Identity, ...]:
        """The living guards that the record names; () for a server whose pids are not valid here."""
        if self.record is None or self.condition is Condition.FOREIGN:
            return ()
        return tuple(guard.identity for guard in _guards(self.record))

    @property
    def are_guards_stopped(self) -> bool:
        """Whether the server has living guards, all of which are stopped by a signal or a debugger."""
        if self.record is None or self.condition is Condition.FOREIGN:
            return False
        return _are_stopped(_guards(self.record))

    @property
    def processes(self) -> tuple[Process, ...]:
        """The server's living processes; () for a server whose pids are not valid here."""
        if self.record is None or self.condition is Condition.FOREIGN:
            return ()
        return tuple(_members(self.folder, self.record))


def state_folder() -> Path:
    """Return the state folder; create it with mode 0700 if it is missing.

    Raises:
        PermissionError: the folder belongs to another user, or other users can enter or replace it.
        OSError: the folder cannot be made.
    """
    path = state_path()
    return disk.call(path, _make_state_folder, path)


def _make_state_folder(path: Path) -> Path:
    _check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _private(path)


def state_path() -> Path:
    """Return the path of the state folder, whether the folder exists or not.

    Raises:
        OSError: the path begins with "~" and there is no such home folder, or the working directory is gone.
    """
    configured = os.environ.get("VLLM_MAGIC_HOME")
    return Path(home.expanded(configured or f"{_runtime_directory()}/vllm_magic")).absolute()


def full_disk() -> str:
    """Return a sentence, without a full stop, if the disk of the state folder is full; else ""."""
    try:
        path = state_path()
        is_full = disk.call(path, files.is_on_full_disk, path)
    except OSError:
        return ""
    return f"The disk of {path} is full" if is_full else ""


def silent_disk() -> str:
    """Return a sentence, without a full stop, if the disk of the state folder does not answer; else ""."""
    try:
        path = state_path()
        disk.call(path, files.modified, path)
    except TimeoutError:
        return f"The disk of {path} does not answer"
    except OSError:
        return ""
    return ""


def create(name: str) -> Folder:
    """Create the private folder of a server, and remove the oldest logs.

    Args:
        name: the name of the server.

    Raises:
        OSError: the folder cannot be made (no space, no permission).
    """
    root = state_folder()
    return disk.call(root, _create, root, name)


def _create(root: Path, name: str) -> Folder:
    _private(root / LOGS)
    _prune(root)
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


def has_log(folder: Folder) -> bool:
    """Whether the log of the living server is there; True also if the disk does not answer."""
    try:
        return disk.call(folder.path, os.path.exists, folder.log)
    except OSError:
        return True


def with_name(folder: Folder, name: str) -> Folder:
    """Return the same folder with the path of the kept log for a server of this name."""
    return _folder(folder.path, name)


def _make(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def entries(*, but: Collection[str] = ()) -> list[Entry]:
    """Return the entries of all private folders, oldest first; empty if there is no state folder.

    Args:
        but: the ids of folders that are left out.

    Raises:
        PermissionError: other users can enter or replace the state folder.
        OSError: the state folder cannot be read.
    """
    paths = [path for path in folders() if path.name not in but]
    here = machine.here() if paths else None
    return [entry for path in paths if (entry := read_entry(path, here)) is not None]


def folders() -> list[Path]:
    """Return the paths of all private folders, oldest first; empty if there is no state folder.

    Raises:
        PermissionError: other users can enter or replace the state folder.
        OSError: the state folder cannot be read.
    """
    root = state_path()
    return disk.call(root, _folders, root)


def _folders(root: Path) -> list[Path]:
    _check_path(root)
    if not root.exists():
        return []
    return sorted((path for path in _private(root).iterdir() if _ID.fullmatch(path.name)), key=files.modified)


def read_entry(path: Path, here: Place | None = None) -> Entry | None:
    """Return the entry of a private folder; None if the folder is gone, is being made, or is not one of this package.

    Args:
        path: the folder.
        here: the place of this process, if the caller has it already.

    Raises:
        OSError: ``here`` is missing, and /proc shows another PID namespace; or the disk does not answer (`TimeoutError`).
    """
    try:
        record = read_record(path)
    except TimeoutError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        if not disk.call(path, _is_unfinished, path):
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


def read_record(folder: Path) -> Record:
    """Return the record of a private folder. Errors as for `guard.record.read`."""
    return disk.call(folder, records.read, str(folder))


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a private folder. Errors as for `guard.record.write`."""
    disk.call(folder, records.write, str(folder), record)


def known_processes(folder: Path) -> list[Identity]:
    """Return the processes that the guards have seen below them; empty if they cannot be read."""
    try:
        return [Identity(*pair) for pair in disk.call(folder, records.read_known_processes, str(folder))]
    except OSError:
        return []


def add_known_processes(folder: Path, left: list[list[Any]]) -> None:
    """Add processes that did not end; see `guard.record.add_known_processes`. An error of the disk is ignored."""
    if left:
        with contextlib.suppress(OSError):
            disk.call(folder, records.add_known_processes, str(folder), left)


def existing_segments(folder: Path) -> set[Segment] | None:
    """Return the shared memory that existed before the server and must stay; None if it cannot be read."""
    try:
        return disk.call(folder, records.read_existing_segments, str(folder))
    except OSError:
        return None


def _is_unfinished(path: Path) -> bool:
    """Whether a folder without a record is one of this package, and is not being made now."""
    # The clock may have been set back.
    return _is_ours(path) and abs(time.time() - files.modified(path)) >= CREATION_LIMIT


def _is_ours(path: Path) -> bool:
    """Whether a folder without a record has a file of this package. Other programs may use names of eight digits too."""
    tmp = _folder(path, "").tmp
    with contextlib.suppress(OSError):
        status = tmp.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return any((path / name).exists() for name in (records.LOCK, CONTROL, "t"))


def kept_logs() -> list[tuple[str, str, Path]]:
    """Return the name, the id and the path of each kept log; empty if they cannot be read."""
    try:
        root = state_path()
        return disk.call(root, _kept_logs, root)
    except OSError:
        return []


def _kept_logs(root: Path) -> list[tuple[str, str, Path]]:
    try:
        with os.scandir(root / LOGS) as found:
            logs = [entry for entry in found if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
    named = [(_KEPT_LOG.fullmatch(entry.name), Path(entry.path)) for entry in logs]
    return [(match["name"], match["id"], path) for match, path in named if match]


def _condition(path: Path, record: Record) -> Condition:
    guards = _guards(record)
    if processes.is_alive(Identity(*record.kernel)) and record.phase != Phase.KEPT:
        # Guards cannot remove the folder while its disk does not answer. On any other disk a folder without guards and
        # processes stays for a moment only: the kernel removes it.
        is_left = (
            disk.may_hang(path)
            and record.outer
            and not guards
            and not _members(_folder(path, record.name), record)
        )
        return Condition.LEFT if is_left else Condition.OWNED
    if _are_stopped(guards) and not _has_time(record):
        return Condition.HUNG
    if guards or _is_locked(path):
        return Condition.KEPT if _is_kept(record) else Condition.RELEASING
    return Condition.ORPHANED if _members(_folder(path, record.name), record) else Condition.LEFT


def _members(folder: Folder, record: Record) -> list[Process]:
    known = known_processes(folder.path)
    if marks.is_sealed(folder.mark):  # a record can be edited; a hidden process is never signalled
        known = [
            identity
            for identity in known
            if identity.start == processes.HIDDEN or marks.is_marked(identity.pid, folder.mark)
        ]
    return marks.members(folder.mark, _leader(folder, record), known)


def _leader(folder: Folder, record: Record) -> Identity | None:
    """Return the leader that the record names; None if that process lives and has no mark of the server.

    A record can be edited, so a living process must have the mark.
    """
    leader = Identity(*record.leader) if record.leader else None
    if leader is None or not processes.is_alive(leader):
        return leader
    return leader if marks.is_marked(leader.pid, folder.mark) else None


def _is_kept(record: Record) -> bool:
    """Whether the guards of a dead kernel keep the server, or are about to."""
    if record.phase == Phase.KEPT:
        return record.kept_until is None or _has_time(record)
    # The guards are about to write this phase, or the disk was full.
    return record.keep > 0 and record.phase != Phase.STOPPING


def _guards(record: Record) -> list[Process]:
    """Return the living guards that the record names."""
    named = [Identity(*guard) for guard in (record.outer, record.inner) if guard]
    return [guard for identity in named if (guard := processes.living(identity))]


def _are_stopped(guards: Collection[Process]) -> bool:
    return bool(guards) and all(guard.state in processes.STOPPED_STATES for guard in guards)


def _has_time(record: Record) -> bool:
    """Whether the guards keep the server for some more time."""
    return record.phase == Phase.KEPT and record.kept_for is not None and record.kept_for > 0


def _is_locked(path: Path) -> bool:
    try:
        return disk.call(path, records.is_locked, str(path))
    except OSError as error:  # no guard ever ran, or the file system has no locks
        shortage.check(error)
        return False


def _foreign(record: Record, now: Place) -> str:
    """Return why the pids of the record are not valid here; "" if they are."""
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
    tmp, log = path / "t", path / "log"
    may_hang = disk.may_hang(path)
    if may_hang or len(os.fsencode(tmp)) > LONGEST_TMP:
        tmp = Path(f"/tmp/vllm-{path.name}")  # noqa: S108 - made with mkdir(2), which fails if the name exists
    if may_hang:  # not even SIGKILL ends a server that waits for such a disk, to write a line or to clean up
        log = tmp / "vllm-magic.log"
    # The name comes from a record, and must not lead to another folder.
    safe = re.sub(r"[^\w.-]", "-", name).encode()[:LONGEST_NAME].decode(errors="ignore")
    kept = path.parent / LOGS / f"{safe}-{path.name}.vllm-magic.log"
    return Folder(path.name, path, tmp, log, kept)


def _runtime_directory() -> str:
    """Return Jupyter's runtime directory, by the rules of jupyter_core's ``jupyter_runtime_dir`` on Linux.

    jupyter_core is not asked: the environment of a terminal tool (pipx, uvx) need not have it, and has to find the same folder.
    """
    env = os.environ
    data = env.get("JUPYTER_DATA_DIR") or f"{env.get('XDG_DATA_HOME') or '~/.local/share'}/jupyter"
    return env.get("JUPYTER_RUNTIME_DIR") or f"{data}/runtime"


def _check_path(path: Path) -> None:
    try:
        trusted_path.check(path)
    except PermissionError as error:
        raise PermissionError(f"{error}. Set VLLM_MAGIC_HOME to a folder of your own.") from None


def _private(path: Path) -> Path:
    """Make the folder if it is missing; check that no other user can enter it."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user. Set VLLM_MAGIC_HOME to a folder of your own.")
    if status.st_mode & 0o077:  # the mode is not changed here, since the folder may be /tmp
        raise PermissionError(
            f"{path} can be entered by others. Make it private (chmod 700), or set VLLM_MAGIC_HOME to another folder."
        )
    return path


def _prune(root: Path) -> None:
    """Remove the oldest logs, and leave room for one more."""
    newest = sorted((path for *_, path in _kept_logs(root)), key=files.modified, reverse=True)
    for path in newest[KEPT_LOGS - 1 :]:
        path.unlink(missing_ok=True)
