"""Remove the server's private folder at the end, and keep its log."""

from __future__ import annotations

import contextlib
import os
import stat
import time

from vllm_magic.guard import log_cap, record
from vllm_magic.linux import files

LIMIT = 10.0  # seconds to remove the content of the folders; a later sweep removes the rest
LONGEST_LINE = 2**16  # bytes after a cut in which the beginning of a line is searched


def clear(folder: str, tmp: str, log: str, keep_log: str) -> None:
    """Move the log to its final place, and remove the folders with all their content.

    The record is removed last, so that it names the owner of any file that is left.

    Args:
        folder: the private folder.
        tmp: the server's TMPDIR.
        log: the log.
        keep_log: the path to which the log is moved.
    """
    with contextlib.suppress(OSError):
        _keep(log, keep_log)
    deadline = time.monotonic() + LIMIT
    if not (_empty(tmp, deadline) and _empty(folder, deadline, but=record.NAME)):
        return
    for path, remove in ((tmp, os.rmdir), (os.path.join(folder, record.NAME), os.unlink), (folder, os.rmdir)):
        with contextlib.suppress(OSError):
            remove(path)


def discard(folder: str, tmp: str, log: str) -> None:
    """Remove the folders of a server that never ran. This opens no file: the start may have failed for lack of descriptors."""
    for path, remove in (
        (log, os.unlink),
        (tmp, os.rmdir),
        (os.path.join(folder, record.NAME), os.unlink),
        (folder, os.rmdir),
    ):
        with contextlib.suppress(OSError):
            remove(path)


def _keep(log: str, kept: str) -> None:
    """Move the log. Keep only the end of a log that has a hole, since its size misleads, or that is too long."""
    with open(log, "rb", buffering=0, opener=files.open_nonblocking) as source:
        size = os.fstat(source.fileno()).st_size
        begin = max(files.first_data(source.fileno()), size - log_cap.LIMIT)
        if begin > 0:
            # If the disk has no space for the copy, the log stays as it is.
            with contextlib.suppress(OSError):
                _copy(source.fileno(), begin, size, log + ".end")
                os.replace(log + ".end", log)
    os.replace(log, kept)


def _copy(source: int, begin: int, end: int, path: str) -> None:
    begin += os.pread(source, LONGEST_LINE, begin).find(b"\n") + 1
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while begin < end:
            sent = os.sendfile(target, source, begin, end - begin)  # takes no memory in this process
            if sent == 0:
                break
            begin += sent
    finally:
        os.close(target)


def _empty(root: str, deadline: float, but: str = "") -> bool:
    """Remove the content of a folder of this user. Links are removed, and never followed.

    Args:
        root: the folder; nothing is removed if it is a link, or belongs to another user.
        deadline: the time to stop, by `time.monotonic`.
        but: the name of a file in the folder that stays.

    Returns:
        False if anything else is left.
    """
    try:
        status = os.lstat(root)
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            return True
        for base, folders, names, fd in os.fwalk(root, topdown=False):
            for name in {*folders, *names} - ({but} if base == root else set()):
                if time.monotonic() > deadline:
                    return False
                _remove(name, fd)
        return set(os.listdir(root)) <= {but}
    except FileNotFoundError:
        return True
    except (OSError, RecursionError):  # before Python 3.13, os.fwalk fails for a thousand nested folders
        return False


def _remove(name: str, folder: int) -> None:
    for remove in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            remove(name, dir_fd=folder)
            return
