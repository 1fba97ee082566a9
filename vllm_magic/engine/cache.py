"""The cache folder, in which a kernel stores data about vLLM for later kernels.

Its content is data and never trusted: the readers check it. Without it, all goes on, only slower: so nothing waits longer
than `LIMIT` for a disk that does not answer. The folder is ``$VLLM_MAGIC_CACHE``, else ``vllm-magic`` in
$XDG_CACHE_HOME or ~/.cache. It has a private folder for each kind of content.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from pathlib import Path

from vllm_magic.linux import disk, files, home, trusted_path

_NAME = re.compile(r"[0-9a-f]{16}\.json")
LIMIT = 2.0  # seconds
LONGEST = 2**23  # bytes; a longer file is not read. The table of vLLM's flags takes a hundredth of this


def path(kind: str) -> Path:
    """Return the path of the folder for one kind of content, whether the folder exists or not.

    Raises:
        OSError: the path begins with "~", and this user has no home folder.
    """
    own = os.environ.get("VLLM_MAGIC_CACHE")
    if own:
        return Path(home.expanded(own), kind).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG specification: a relative path is ignored
        base = home.expanded("~/.cache")
    return Path(base, "vllm-magic", kind)


def make(kind: str) -> Path:
    """Return the folder for one kind of content; create it with mode 0700 if it is missing.

    Raises:
        OSError: the folder cannot be created, or other users have access to it.
    """
    folder = path(kind)
    return disk.call(folder, _make, folder, limit=LIMIT)


def _make(folder: Path) -> Path:
    trusted_path.check(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder.lstat(), stat.S_IFDIR):
        raise PermissionError(f"{folder} is not a private folder of this user (mode 0700).")
    return folder


def read(kind: str, name: str) -> bytes | None:
    """Return the content of a file; None if the file does not exist, is too long, or is not private to this user."""
    try:
        folder = path(kind)
        return disk.call(folder, _read, folder, name, limit=LIMIT)
    except (OSError, ValueError):
        return None


def _read(folder: Path, name: str) -> bytes | None:
    if not _is_private(folder.lstat(), stat.S_IFDIR):
        return None
    with open(folder / name, "rb", opener=_careful) as file:
        status = os.fstat(file.fileno())
        fits = _is_private(status, stat.S_IFREG) and status.st_size <= LONGEST
        return file.read(LONGEST) if fits else None


def modified(kind: str, name: str) -> float:
    """When the file was written last, in seconds since the epoch; 0.0 where it is gone, or cannot be read."""
    try:
        folder = path(kind)
        return disk.call(folder, files.modified, folder / name, limit=LIMIT)
    except OSError:
        return 0.0


def write(kind: str, name: str, content: bytes) -> None:
    """Replace the content of a file in one step; only this user can read the new file.

    Raises:
        OSError: the file cannot be written.
    """
    folder = path(kind)
    disk.call(folder, _write, folder, name, content, limit=LIMIT)


def _write(folder: Path, name: str, content: bytes) -> None:
    _make(folder)
    fd, new = tempfile.mkstemp(dir=folder, prefix=".")  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        Path(new).replace(folder / name)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def names(kind: str) -> list[str]:
    """Return the names of the files in the folder, newest first; empty if the folder does not exist."""
    try:
        folder = path(kind)
        return disk.call(folder, _names, folder, limit=LIMIT)
    except OSError:
        return []


def _names(folder: Path) -> list[str]:
    return [file.name for file in sorted(folder.iterdir(), key=files.modified, reverse=True)]


def prune(kind: str, keep: int) -> None:
    """Remove all but the ``keep`` newest files. Files with other names than those of this package stay."""
    with contextlib.suppress(OSError):
        folder = path(kind)
        disk.call(folder, _prune, folder, keep, limit=LIMIT)


def _prune(folder: Path, keep: int) -> None:
    ours = [file for file in folder.iterdir() if _NAME.fullmatch(file.name)]
    for old in sorted(ours, key=files.modified, reverse=True)[keep:]:
        old.unlink(missing_ok=True)


def _careful(path: str, flags: int) -> int:
    """Open a file without waiting for the writer of a FIFO, and without following a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _is_private(status: os.stat_result, kind: int) -> bool:
    return (
        stat.S_IFMT(status.st_mode) == kind
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )
