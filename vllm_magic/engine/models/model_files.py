"""Find a model's files on this machine, and read them without trust in their content."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.flags import flags
from vllm_magic.errors import NoEstimate
from vllm_magic.linux import files, home

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.spec import ServerSpec

PREFIX = "models--"  # of a model's folder in the cache: models--ORGANISATION--NAME
INDEX = "model.safetensors.index.json"  # names the file of each tensor
LARGEST_REF = 1000  # bytes; a ref holds the 40 digits of a commit
LARGEST_CONFIG = 5_000_000  # bytes; the largest config.json in use have some 100 kB


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the Hugging Face cache, by the rules of huggingface_hub (its constants.py)."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return expanded(environ[name])
    base = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return expanded(base) / "hub"


def folder_name(model: str) -> str:
    """Return the name of a model's folder in the cache."""
    return f"{PREFIX}{model.replace('/', '--')}"


def expanded(path: str) -> Path:
    """Return the path with the home folder in place of ``~``; unchanged if there is none, as `os.path.expanduser` does."""
    with suppress(OSError):
        return Path(home.expanded(path))
    return Path(path)


def find(spec: ServerSpec, environ: Mapping[str, str]) -> Path | None:
    """Return the folder with the model's files: a local folder, or the snapshot in the cache; None if there is neither.

    Args:
        spec: the model, with its ``--revision`` and ``--download-dir``.
        environ: the environment, with ``HF_HOME`` and similar variables.
    """
    try:
        local = Path(spec.cwd, spec.model)
        if local.is_dir():
            return local
        chosen = flags.value(spec.all_args, "--download-dir")
        cache = Path(spec.cwd, chosen) if chosen else cache_folder(environ)
    except (OSError, ValueError, RuntimeError):  # also a name that no file can have, a user without a home
        return None
    return snapshot(cache, spec)


def snapshot(cache: Path, spec: ServerSpec) -> Path | None:
    """Return the folder of the model's revision in this cache; None if the revision is not in it."""
    try:
        cached = cache / folder_name(spec.model)
        revision = flags.value(spec.all_args, "--revision") or "main"
        if not _is_commit(revision):
            revision = files.read_regular(cached / "refs" / revision, LARGEST_REF).decode().strip()
        folder = cached / "snapshots" / revision
        return folder if _is_commit(revision) and folder.is_dir() else None
    except (OSError, ValueError):  # also a name that no file can have
        return None


def read_json(path: Path, most: int = LARGEST_CONFIG) -> dict[str, Any]:
    """Return the object in a JSON file of at most `most` bytes.

    Raises:
        NoEstimate: the file cannot be read, or does not hold a JSON object.
    """
    return json_object(read_start(path, most)[0], path.name)


def json_object(raw: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in these bytes; ``name`` is the file's name, for the error.

    Raises:
        NoEstimate: there is no JSON object.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        where = (
            f": line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise NoEstimate(f"{name} cannot be read as JSON{where}.") from None
    if not isinstance(content, dict):
        raise NoEstimate(f"{name} does not hold a JSON object.")
    return content


def read_start(path: Path, count: int, skip: int = 0) -> tuple[bytes, int]:
    """Return at most `count` bytes of a regular file, after its first `skip` bytes, and the size of the file.

    Raises:
        NoEstimate: the file cannot be read, or is not a regular file: a read from a pipe could wait without a limit.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a valid file name"
        raise NoEstimate(f"{path.name} cannot be read: {reason}.") from None
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise NoEstimate(f"{path.name} is not a file.")
        return os.pread(file, count, skip), state.st_size
    except OSError as error:
        raise NoEstimate(f"{path.name} cannot be read: {error.strerror}.") from None
    finally:
        os.close(file)


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None
