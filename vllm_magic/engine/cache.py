"""The cache folder, in which a kernel stores data about vLLM for later kernels.

Its content is data and never trusted: the readers check it. The folder is ``$VLLM_MAGIC_CACHE``, else ``vllm-magic`` in
$XDG_CACHE_HOME or ~/.cache. It has a private folder for each kind of content.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from pathlib import Path

from vllm_magic.linux import files, home, trusted_path

_NAME = re.compile(r"[0-9a-f]{16}\.json")
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
    trusted_path.check(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder.lstat(), stat.S_IFDIR):
        raise PermissionError(f"{folder} is not a private folder of this user (mode 0700).")
    return folder


def read(kind: str, name: str) -> bytes | None:
    """Return the content of a file; None if the file does not exist, is too long, or is not private to this user."""
    try:
        folder = path(kind)
        if not _is_private(folder.lstat(), stat.S_IFDIR):
            return None
        with open(folder / name, "rb", opener=_careful) as file:
            status = os.fstat(file.fileno())
            fits = _is_private(status, stat.S_IFREG) and status.st_size <= LONGEST
            return file.read(LONGEST) if fits else None
    except (OSError, ValueError):
        return None


def write(kind: str, name: str, content: bytes) -> None:
    """Replace the content of a file in one step; only this user can read the new file.

    Raises:
        OSError: the file cannot be written.
    """
    folder = make(kind)
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
        return [file.name for file in sorted(path(kind).iterdir(), key=files.modified, reverse=True)]
    except OSError:
        return []


def prune(kind: str, keep: int) -> None:
    """Remove all but the ``keep`` newest files. Files with other names than those of this package stay."""
    with contextlib.suppress(OSError):
        ours = [file for file in path(kind).iterdir() if _NAME.fullmatch(file.name)]
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
