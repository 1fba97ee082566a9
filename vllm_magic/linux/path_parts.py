"""The parts of a path, with its links followed one at a time, so that each part can be checked before the next one is read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LINKS = 40  # the number that Linux follows (path_resolution(7))


def parts(path: str) -> Iterator[str]:
    """Yield the absolute path of each folder, link and file on the way to an absolute path, beginning with "/".

    A part is read after it was yielded: a caller that stops at a part does not touch the file system of that part.

    Raises:
        OSError: a part does not exist or cannot be read, or there are too many links.
    """
    at = "/"
    yield at
    todo = _names(path)
    links = 0
    while todo:
        name = todo.pop()
        part = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        yield part
        if name == ".." or not stat.S_ISLNK(os.lstat(part).st_mode):
            at = part
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)
        target = os.readlink(part)
        todo += _names(target)
        at = "/" if target.startswith("/") else at


def _names(path: str) -> list[str]:
    """Return the names in the path, in reverse order."""
    return [name for name in reversed(PurePath(path).parts) if name != "/"]
