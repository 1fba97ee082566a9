"""Find the path that was probably meant by a path that is not there."""

from __future__ import annotations

import os
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST = 1000  # entries of a folder that are compared, at most


def hint(path: Path) -> str:
    """Return what to do about an absolute path that is not there, as the end of a message: the nearest path that is there."""
    found = path.parents[-1]
    for part in path.parts[1:]:
        if os.path.lexists(found / part):
            found /= part
        elif near := _alike(part, found):
            found /= near
        else:
            return f"Nothing in {found} is called {part}"
    return f"Did you mean {found}?" if found != path else f"{path} is a link to nothing"


def _alike(name: str, folder: Path) -> str | None:
    """Return the entry of the folder that is most like the name; None if none is."""
    try:
        with os.scandir(folder) as entries:
            there = {entry.name.casefold(): entry.name for entry in islice(entries, MOST)}
    except OSError:
        return None
    near = get_close_matches(name.casefold(), there, 1)
    return there[near[0]] if near else None
