"""Whether a path leads where this user wants, whatever other users do: as OpenSSH checks it for its files (StrictModes).

Each part of the path, links and what they point to included, belongs to this user or to root, and no folder on it is one
in which everybody can replace what others made (mode ``o+w`` without the sticky bit; /tmp has that bit). A group that may
write is trusted: it has been chosen, and in many containers everything is writable for one.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import PurePath

MOST_LINKS = 40  # as the kernel follows (path_resolution(7))


def check(path: str | os.PathLike[str]) -> None:
    """Look at every part of the path that is there.

    Raises:
        PermissionError: another user could lead it elsewhere; the message says which part, and why.
        OSError: it cannot be looked at.
    """
    at = "/"
    todo = _parts(os.path.join(os.getcwd(), path))
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, name)
        try:
            status = os.lstat(here)
        except FileNotFoundError:  # whoever makes it makes it in a folder that was looked at
            return
        _check_one(here, status)
        if not stat.S_ISLNK(status.st_mode):
            at = here
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), here)
        target = os.readlink(here)
        todo += _parts(target)
        at = "/" if target.startswith("/") else at


def _parts(path: str) -> list[str]:
    """The names in it, the first one last."""
    return [name for name in reversed(PurePath(path).parts) if name != "/"]


def _check_one(path: str, status: os.stat_result) -> None:
    if status.st_uid not in {0, os.getuid(), _nobody()}:
        raise PermissionError(f"{path} belongs to another user")
    mode = status.st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(f"{path} is a folder in which everybody can replace what is there")


def _nobody() -> int:
    """Who is shown as owner in place of users that are not of this user namespace, as root of the machine (user_namespaces(7)); else 0."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            if file.read().split() == ["0", "0", "4294967295"]:
                return 0
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
