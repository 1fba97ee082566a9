"""What may be lost: small files that make the next time faster or better told."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

LONGEST = 2**22  # bytes; what is longer is none of ours


def folder(name: str) -> Path:
    """``name`` in the cache folder, made with mode 0700 if it is not there.

    That is ``$VLLM_MAGIC_CACHE``, else ``vllm-magic`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        OSError: it cannot be made.
    """
    base = (
        os.environ.get("VLLM_MAGIC_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/vllm-magic"
    )
    path = Path(base).expanduser() / name
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def read(path: Path) -> Any:
    """What the JSON file holds; None where there is none, or nothing that can be read."""
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        return json.loads(data) if len(data) <= LONGEST else None
    except (OSError, ValueError, RecursionError):
        return None


def write(path: Path, content: Any) -> None:
    """Replace the file by this content in one step, for this user alone.

    Raises:
        OSError: it cannot be written.
    """
    fd, new = tempfile.mkstemp(dir=path.parent, prefix=".")  # mode 0600
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        Path(new).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(new).unlink()
        raise


def prune(path: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest files of a folder."""
    with suppress(OSError):
        newest = sorted(path.glob("*.json"), key=_modified, reverse=True)
        for old in newest[keep:]:
            old.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another kernel removed it
        return 0.0
