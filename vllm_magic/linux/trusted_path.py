"""Whether a path leads where this user wants: no link on it may belong to another user.

Whoever may write into a folder on the path can put another one in the place of ours, but cannot make one that belongs to
this user: the private folder at the end is checked for that by those who use it. What else would lead astray is a link to
another folder of this user. So folders of other users are no obstacle, as they are in containers that run under any user
id (OpenShift), in volumes of Kubernetes with mode 0777 and below a project's folder on a cluster.
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
    todo = _parts(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
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


def _parts(path: str | os.PathLike[str]) -> list[str]:
    """The names in it, the first one last."""
    return [name for name in reversed(PurePath(path).parts) if name != "/"]


def _check_one(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in {0, os.getuid(), _nobody()}:
        raise PermissionError(f"{path} is a link that belongs to another user")


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
