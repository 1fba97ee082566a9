"""Clearing the server's private folder at the end, with its log kept."""

from __future__ import annotations

import contextlib
import os
import stat
import time

from vllm_magic.guard import log_cap, record
from vllm_magic.linux import files

LIMIT = 10.0  # seconds for the folders' content; what is left then is for the next one who clears
LONGEST_LINE = 2**16  # bytes at the cut in which the beginning of a line is looked for


def clear(folder: str, tmp: str, log: str, keep_log: str) -> None:
    """Move the log to where it is kept, and remove the folders with all that the server left in them.

    The record goes last: as long as anything is left it says whose that is.
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
    """Remove the folders of a server that never ran. It takes no descriptor: that may be what the start lacked."""
    for path, remove in (
        (log, os.unlink),
        (tmp, os.rmdir),
        (os.path.join(folder, record.NAME), os.unlink),
        (folder, os.rmdir),
    ):
        with contextlib.suppress(OSError):
            remove(path)


def _keep(log: str, kept: str) -> None:
    """Move the log; of one that is cut, or too long, only the end: a file with a hole has a size that misleads."""
    with open(log, "rb", buffering=0, opener=files.unblocked) as source:
        size = os.fstat(source.fileno()).st_size
        begin = max(files.first_data(source.fileno()), size - log_cap.LIMIT)
        if begin > 0:
            # Without the space for a second one it stays as it is.
            with contextlib.suppress(OSError):
                _copy(source.fileno(), begin, size, log + ".end")
                os.replace(log + ".end", log)
    os.replace(log, kept)


def _copy(source: int, begin: int, end: int, path: str) -> None:
    begin += os.pread(source, LONGEST_LINE, begin).find(b"\n") + 1
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while begin < end:
            sent = os.sendfile(target, source, begin, end - begin)  # in the kernel: it takes no memory here
            if sent == 0:
                break
            begin += sent
    finally:
        os.close(target)


def _empty(root: str, deadline: float, but: str = "") -> bool:
    """Remove what is in a folder of ours, links themselves and never what they point to; False if something is left.

    Where the folder was removed meanwhile, and somebody put a link or a folder of theirs in its place, nothing is.
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
    except (
        OSError,
        RecursionError,
    ):  # folders in folders, a thousand deep: too many for os.fwalk before Python 3.13
        return False


def _remove(name: str, folder: int) -> None:
    for remove in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            remove(name, dir_fd=folder)
            return
