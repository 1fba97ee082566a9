"""Clearing the server's private folder at the end, with its log kept."""

from __future__ import annotations

import contextlib
import os

from vllm_magic.guard import record


def clear(folder: str, tmp: str, log: str, keep_log: str) -> None:
    """Move the log to where it is kept, and remove the folders with all that the server left in them.

    The record goes last: as long as anything is left it says whose that is.
    """
    with contextlib.suppress(OSError):
        os.replace(log, keep_log)
    _empty(tmp)
    _empty(folder, but=record.NAME)
    for path, remove in ((tmp, os.rmdir), (os.path.join(folder, record.NAME), os.unlink), (folder, os.rmdir)):
        with contextlib.suppress(OSError):
            remove(path)


def _empty(root: str, but: str = "") -> None:
    """Remove what is in a folder of ours, links themselves and never what they point to.

    Where the folder was removed meanwhile, and somebody put a link or a folder of theirs in its place, nothing is.
    """
    with contextlib.suppress(OSError):
        if os.lstat(root).st_uid != os.getuid():
            return
        for base, folders, files, fd in os.fwalk(root, topdown=False):
            for name in {*folders, *files} - ({but} if base == root else set()):
                _remove(name, fd)


def _remove(name: str, folder: int) -> None:
    for remove in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            remove(name, dir_fd=folder)
            return
