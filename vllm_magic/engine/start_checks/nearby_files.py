"""Paths as vLLM finds them, and the file that a wrong path probably means."""

from __future__ import annotations

import itertools
import os
from difflib import get_close_matches
from pathlib import Path

MOST = 2000  # entries of a folder that are read
ALIKE = 0.6  # how similar two names must be, by difflib's measure


def is_there(path: str, cwd: str) -> bool:
    """Whether a path, relative to a folder, is there; also if this user may not look."""
    try:
        Path(cwd, path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # another error: vLLM decides
        return True
    return True


def meant(path: str, cwd: str, *more: str) -> str:
    """Return what to write in place of a path that is not there, as a sentence; "" if nothing is like it.

    Args:
        path: the path as it is written.
        cwd: the folder to which it is relative.
        more: other folders to which it may be relative.
    """
    if path.startswith("~"):  # no shell reads the line, and vLLM does not expand it
        expanded = os.path.expanduser(path)  # noqa: PTH111 - a Path cannot be expanded without an error for an unknown user
        return f" Write {expanded}." if is_there(expanded, cwd) else ""
    *parents, name = Path(path).parts
    names = [one for folder in (cwd, *more) for one in _names(Path(folder, *parents))]
    if near := get_close_matches(name, names, 1, ALIKE):
        return f" Did you mean {Path(*parents, near[0])}?"
    folder = Path(cwd, *parents)
    if folder.is_dir():
        return ""
    missing = next((one for one in reversed(folder.parents) if not one.is_dir()), folder)
    return f" There is no folder {missing}."


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, MOST)]
    except OSError:
        return []
