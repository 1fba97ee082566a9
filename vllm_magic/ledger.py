"""What is on disk: one private folder for each server, and the logs of those that have ended.

::

    STATE FOLDER                $VLLM_MAGIC_HOME, else vllm_magic in Jupyter's runtime directory
    ├── 3f9a61c2/               a living server's folder, mode 0700; the guard removes it after the release
    │   ├── t/                  the server's TMPDIR
    │   └── log
    └── logs/                   the last `KEPT_LOGS` logs
        └── qwen3-3f9a61c2.log
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KEPT_LOGS = 20
LONGEST_KEPT_LOG = 64 * 2**20  # bytes
# vLLM makes sockets with names of 36 characters there, and a path of a socket has at most 107 (unix(7)).
LONGEST_TMP = 70


@dataclass(frozen=True)
class Folder:
    """The private folder of one server."""

    id: str
    path: Path
    tmp: Path
    log: Path
    kept_log: Path


def state_folder() -> Path:
    """Where everything is kept, made with mode 0700 if it is not there.

    Raises:
        PermissionError: it belongs to another user, or others can enter it.
    """
    path = (
        Path(os.environ.get("VLLM_MAGIC_HOME") or _runtime_directory() / "vllm_magic").expanduser().absolute()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return _private(path)


def create(name: str) -> Folder:
    """A new folder for a server called ``name``; old logs are cleared on the way.

    Raises:
        OSError: the folder cannot be made (no space, no permission).
    """
    home = state_folder()
    logs = _private(home / "logs")
    _prune(logs)
    while True:
        identifier = secrets.token_hex(4)
        path = home / identifier
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        break
    tmp = path / "t"
    if len(os.fsencode(tmp)) > LONGEST_TMP:
        tmp = Path(tempfile.mkdtemp(prefix="vllm-", dir="/tmp"))
    else:
        tmp.mkdir(mode=0o700)
    return Folder(identifier, path, tmp, path / "log", logs / f"{name}-{identifier}.log")


def _runtime_directory() -> Path:
    try:
        from jupyter_core.paths import jupyter_runtime_dir
    except ImportError:  # a bare IPython
        return Path("~/.local/share/jupyter/runtime")
    return Path(jupyter_runtime_dir())


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    stat = path.stat()
    if stat.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user. Set VLLM_MAGIC_HOME to a folder of your own.")
    if stat.st_mode & 0o077:  # not closed to them here: it may be /tmp that was named
        raise PermissionError(
            f"{path} can be entered by others. Make it private (chmod 700), or set VLLM_MAGIC_HOME to another folder."
        )
    return path


def _prune(logs: Path) -> None:
    """Keep the newest logs, and of a very long one the end."""
    newest = sorted(logs.glob("*.log"), key=_modified, reverse=True)
    for path in newest[KEPT_LOGS - 1 :]:  # the next one makes it full
        path.unlink(missing_ok=True)
    for path in newest[: KEPT_LOGS - 1]:
        if _size(path) > LONGEST_KEPT_LOG:
            _keep_end(path)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another kernel removed it
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _keep_end(path: Path) -> None:
    with suppress(FileNotFoundError):  # another kernel is at it too
        modified = path.stat().st_mtime_ns
        with path.open("rb") as file:
            file.seek(-LONGEST_KEPT_LOG, os.SEEK_END)
            end = file.read()
        shorter = path.with_suffix(".shorter")
        shorter.touch(mode=0o600)
        shorter.write_bytes(end)
        os.utime(shorter, ns=(modified, modified))
        shorter.replace(path)
