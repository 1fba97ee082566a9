"""The program uv: where it is, its cache, and the settings of pip that it does not read."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.children.child import ChildProcess
from vllm_magic.errors import InstallFailed, VllmMagicError, reason
from vllm_magic.installation.programs import ENVIRONMENT
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ANSWER_LIMIT = 60.0  # seconds for uv or pip to say something about itself
LONGEST_ANSWER = 2**16  # bytes
_TEMPORARY = ".tmp*"  # the folders in uv's cache into which it unpacks while it downloads
_OWN_INDEXES = (
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_CONFIG_FILE",
)
# The settings of pip that say where packages are, and the variables of uv with the same meaning.
_FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def find() -> str | None:
    """Return the path of uv: of the package uv beside this Python, else the one on PATH; None if there is none."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        return str(importlib.import_module("uv").find_uv_bin())
    beside = str(Path(sys.executable).with_name("uv")) if sys.executable else ""
    return shutil.which(beside) or shutil.which("uv")


def cache_folder(uv: str, otherwise: Path) -> Path:
    """Return the folder for uv's cache: its own, or another one if its own cannot be written.

    Args:
        uv: the path of uv.
        otherwise: the other folder.

    Raises:
        InstallFailed: the disk of uv's own cache does not answer.
    """
    answer = _answer([uv, "cache", "dir"])
    own = Path(answer.strip()) if answer.strip() else otherwise
    try:
        return own if disk.call(own, _can_be_written, own) else otherwise
    except OSError as error:
        raise InstallFailed(
            f"uv's cache in {own} cannot be used: {reason(error)}",
            "Set UV_CACHE_DIR to a folder on another disk",
        ) from None


def index_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables for uv with the package indexes of pip; {} if uv has settings of its own, or pip has none.

    uv does not read pip's settings. In many companies, pip is the only program that is set up for the private index.
    """
    configured = [
        Path(environ.get("XDG_CONFIG_HOME") or "~/.config", "uv/uv.toml").expanduser(),
        Path("/etc/uv/uv.toml"),
    ]
    if any(environ.get(name) for name in _OWN_INDEXES) or not sys.executable:
        return {}
    with contextlib.suppress(OSError):
        if any(disk.call(path, os.path.exists, path) for path in configured):
            return {}
    return from_pip(_answer([sys.executable, "-m", "pip", "config", "list"]), environ)


def from_pip(settings: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables for uv.

    Args:
        settings: what ``pip config list`` prints: a line ``global.index-url='https://...'`` for each setting. Those of the
            environment, which count more, come last.
        environ: the environment; a variable that it has stays.
    """
    found: dict[str, str] = {}
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if section in ("global", "install", ":env:") and key in _FROM_PIP:
            with contextlib.suppress(ValueError, SyntaxError):
                words = str(ast.literal_eval(value.strip())).split()
                found[_FROM_PIP[key]] = ("," if key == "find-links" else " ").join(words)
    if (
        "UV_INDEX" in found
    ):  # pip takes the newest version of all indexes, uv that of the first index that has the package
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in found.items() if value and not environ.get(name)}


def temporary_folders(cache: Path) -> frozenset[str]:
    """Return the names of the folders of downloads that are under way, or were killed; empty if they cannot be seen."""
    try:
        return frozenset(path.name for path in disk.call(cache, _temporary, cache))
    except OSError:
        return frozenset()


def unfinished(cache: Path, others: frozenset[str]) -> int | None:
    """Return the bytes in the folders of downloads, without the ``others``; None if the disk does not answer."""
    try:
        return disk.call(cache, _size, cache, others)
    except OSError:
        return None


def remove_unfinished(cache: Path, others: frozenset[str]) -> None:
    """Remove what a killed uv has left in its cache, without the ``others``. Nothing is removed while another uv uses the cache."""
    with contextlib.suppress(OSError):
        disk.call(cache, _remove, cache, others)


def _temporary(cache: Path) -> list[Path]:
    return [path for path in cache.glob(_TEMPORARY) if path.is_dir() and not path.is_symlink()]


def _size(cache: Path, others: frozenset[str]) -> int:
    total = 0
    for path in _temporary(cache):
        if path.name not in others:
            for folder, _, names in os.walk(path):
                for name in names:
                    with contextlib.suppress(OSError):  # it was moved meanwhile
                        total += Path(folder, name).lstat().st_size
    return total


def _remove(cache: Path, others: frozenset[str]) -> None:
    # Each uv holds a shared lock of this file while it uses the cache (uv's crates/uv-cache).
    with (cache / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in _temporary(cache):
            if path.name not in others:
                shutil.rmtree(path, ignore_errors=True)


def _can_be_written(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _answer(words: Sequence[str]) -> str:
    try:
        child = ChildProcess(words, ENVIRONMENT, cwd="/", stderr=subprocess.DEVNULL)
    except VllmMagicError:
        return ""
    with contextlib.closing(child):
        said = child.output(ANSWER_LIMIT, LONGEST_ANSWER)
    return (said or b"").decode("utf-8", "replace")
