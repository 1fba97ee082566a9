"""Expand the ``~`` at the beginning of a path."""

from __future__ import annotations

import os

from vllm_magic.linux import lookups


def expanded(path: str) -> str:
    """Return the path with the home folder in place of ``~`` or ``~USER``.

    Raises:
        FileNotFoundError: there is no such user, or this user has no home folder ($HOME is unset in a container that runs
            under a user id without a name).
        OSError: the user was not found in time (`TimeoutError`).
    """
    if not path.startswith("~"):
        return path
    user = path.partition("/")[0]
    try:
        if user == "~" and "HOME" in os.environ:
            found = os.path.expanduser(path)
        else:
            found = lookups.within(lookups.USER_LIMIT, ("home", user), lambda: os.path.expanduser(user))
            found += path[len(user) :]
    except ValueError:  # not a valid name of a user
        found = path
    if not found.startswith("~"):
        return found
    if user == "~":
        raise FileNotFoundError(f"{path}: this user has no home folder. Set HOME, or write the whole path")
    raise FileNotFoundError(f"{path}: there is no user {user[1:]}. Write the whole path")
