"""Whether a path exists, and which path the user probably meant if not."""

from __future__ import annotations

import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

MOST = 2000  # names of a folder that are compared, at most
CUTOFF = 0.6  # how similar two names must be, as a ratio of difflib


def exists(path: str, cwd: str) -> bool:
    """Whether a path, relative to a folder, exists; True if this user may not look there."""
    try:
        Path(cwd, path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # another error: vLLM decides
        return True
    return True


def suggestion(path: str, cwd: str, *more: str) -> str:
    """Return what to write in place of a path that does not exist, as a sentence after a blank; "" if no path is similar.

    Only the last part of the path may be misspelled.

    Args:
        path: the path as the user wrote it.
        cwd: the folder to which the path is relative.
        more: other folders to which the path may be relative.
    """
    if path.startswith("~"):  # neither a shell nor vLLM expands it
        expanded = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises an error for an unknown user
        return f" Write {expanded}." if exists(expanded, cwd) else ""
    *parents, name = Path(path).parts
    names = [found for folder in (cwd, *more) for found in _names(Path(folder, *parents))]
    if similar := get_close_matches(name, names, 1, CUTOFF):
        return f" Did you mean {Path(*parents, similar[0])}?"
    folder = Path(cwd, *parents)
    if folder.is_dir():
        return ""
    missing = next((parent for parent in reversed(folder.parents) if not parent.is_dir()), folder)
    return f" There is no folder {missing}."


def nearest(path: Path) -> str:
    """Return what to do about an absolute path that does not exist, without a period at the end: the nearest path that exists.

    Each part of the path may be misspelled, or have other capital letters.
    """
    found = path.parents[-1]
    for part in path.parts[1:]:
        if os.path.lexists(found / part):
            found /= part
            continue
        by_folded = {name.casefold(): name for name in _names(found)}
        similar = get_close_matches(part.casefold(), by_folded, 1, CUTOFF)
        if not similar:
            return f"Nothing in {found} is called {part}"
        found /= by_folded[similar[0]]
    return f"Did you mean {found}?" if found != path else f"{path} is a link to nothing"


def _names(folder: Path) -> list[str]:
    """Return the names in a folder; [] if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, MOST)]
    except OSError:
        return []
