"""The cache folder: what one kernel learns of vLLM, for the next one. What is in it is read, never believed.

It is ``$VLLM_MAGIC_CACHE``, else ``vllm-magic`` in $XDG_CACHE_HOME or ~/.cache, with a private folder for each kind of thing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from pathlib import Path

from vllm_magic.linux import trusted_path

_NAME = re.compile(r"[0-9a-f]{16}\.json")
LONGEST = 2**23  # bytes of a file that is read; the table of vLLM's flags takes a hundredth of it


def path(kind: str) -> Path:
    """The folder for one kind of thing, whether it is there or not.

    Raises:
        OSError: this user has no home.
    """
    own = os.environ.get("VLLM_MAGIC_CACHE")
    if own:
        return Path(own, kind).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG specification: a relative one is to be ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise FileNotFoundError(str(error)) from None
    return Path(base, "vllm-magic", kind)


def make(kind: str) -> Path:
    """The folder, made with mode 0700 if it is not there.

    Raises:
        OSError: it cannot be made, or is not this user's alone.
    """
    folder = path(kind)
    trusted_path.check(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder.lstat(), stat.S_IFDIR):
        raise PermissionError(f"{folder} is not this user's alone.")
    return folder


def read(kind: str, name: str) -> bytes | None:
    """What a file of the folder holds; None where there is none, or it is not a file of this user's alone."""
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
    """Replace the file by this content in one step, for this user alone.

    Raises:
        OSError: it cannot be written.
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
    """The files of the folder, the newest first; [] where there is none."""
    try:
        return [file.name for file in sorted(path(kind).iterdir(), key=_modified, reverse=True)]
    except OSError:
        return []


def prune(kind: str, keep: int) -> None:
    """Remove all but the ``keep`` newest of the files that are called as ours are; the folder may be somebody's."""
    with contextlib.suppress(OSError):
        ours = [file for file in path(kind).iterdir() if _NAME.fullmatch(file.name)]
        for old in sorted(ours, key=_modified, reverse=True)[keep:]:
            old.unlink(missing_ok=True)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # another kernel removed it
        return 0.0


def _careful(path: str, flags: int) -> int:
    """Neither blocked by a FIFO, nor led elsewhere by a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _is_private(status: os.stat_result, kind: int) -> bool:
    return (
        stat.S_IFMT(status.st_mode) == kind
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )
