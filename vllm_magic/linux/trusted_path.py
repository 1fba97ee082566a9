"""Check that other users cannot redirect a path: links on it must belong to root or to this user.

A user who may write into a folder on the path can put another folder in the place of ours, but cannot make
one that belongs to this user. The callers check the owner of the private folder at the end of the path. The
remaining danger is a link to a different folder of this user. So only links are refused, and folders of other
users are accepted. They occur in containers that run under any user id (OpenShift), in volumes of Kubernetes
with mode 0777, and below a project's folder on a cluster.
"""

from __future__ import annotations

import contextlib
import os
import stat

from vllm_magic.linux import path_parts


def check(path: str | os.PathLike[str]) -> None:
    """Check every part of the path that exists.

    Raises:
        PermissionError: another user could redirect the path; the message says at which part, and why.
        OSError: a part cannot be read, or there are too many links.
    """
    absolute = os.fspath(path) if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    # A missing part can only be made in a folder that was checked.
    with contextlib.suppress(FileNotFoundError):
        for part in path_parts.parts(absolute):
            _check_part(part)


def _check_part(path: str) -> None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in {0, os.getuid(), _nobody()}:
        raise PermissionError(f"{path} is a link that belongs to another user")


def _nobody() -> int:
    """Return the user id that Linux shows for owners outside this user namespace (user_namespaces(7)).

    It is 0 in the machine's own user namespace, where all users have their own ids, or where this cannot be
    read.
    """
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            if file.read().split() == ["0", "0", "4294967295"]:
                return 0
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
