"""Keep data of releases that are not proved on disk, and check such a release again later.

No process of such a server lives any more, and its private folder is cleared. STATE FOLDER/unproved/ID.json has the GPUs
before the server's start and while it ran, and the server's processes. The file is removed when the release is proved, or
when the file is a day old.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic import ledger
from vllm_magic.guard import validation
from vllm_magic.guard.ladder import Outcome
from vllm_magic.guard.protocol import Why
from vllm_magic.linux import disk, files, machine
from vllm_magic.linux.processes import Identity
from vllm_magic.release import report
from vllm_magic.release.local_verifier import LocalVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vllm_magic.gpu.probe import Probe
    from vllm_magic.release.result import Release
    from vllm_magic.release.verifier import Verifier

MAX_AGE = 86400.0  # seconds
LARGEST_FILE = 2**20  # bytes; a longer file is not one of this package


@dataclass(frozen=True)
class Recheck:
    """The result of checking an earlier release again."""

    release: Release

    @property
    def verified(self) -> bool:
        """Whether the release is proved now."""
        return self.release.verified

    @property
    def text(self) -> str:
        """The result in one line."""
        note = f" {self.release.note}." if not self.release.verified else self.release.in_brackets
        return f"{self.release.text}{note}"


def update(leader: Identity | None, verifier: Verifier, release: Release) -> None:
    """Write the data for another check of a release that is not proved; remove the data of a proved release.

    Nothing is written for a release with processes that are left, or if the verifier needs no data. If the file cannot be
    written, no error is raised: the release itself reports that it failed.

    Args:
        leader: the leader of the server, or None.
        verifier: the verifier of the release.
        release: the release.
    """
    packed = verifier.packed()
    if packed is None or release.left:
        return
    with suppress(OSError):
        path = _folder() / f"{packed['id']}.json"
        if release.verified:
            disk.call(path.parent.parent, _remove, path)
        else:
            data = {
                "name": release.server,
                "place": list(machine.here()),
                "leader": list(leader) if leader else None,
                "ended": [
                    [process.pid, process.start, process.name, process.how] for process in release.ended
                ],
            }
            disk.call(path.parent.parent, _write, path, packed | data)


def recheck(probe: Probe, name: str | None = None) -> list[Recheck]:
    """Check again each release that is not proved, oldest first.

    Args:
        probe: reads the GPUs.
        name: the name of the server, or the id of its folder; None for all servers.

    Raises:
        OSError: the disk does not answer.
    """
    folder = _folder()
    unproved = disk.call(folder.parent, _read_all, folder)
    return [Recheck(_recheck(kept, probe)) for kept in unproved if name in (None, kept["name"], kept["id"])]


def _recheck(kept: Mapping[str, Any], probe: Probe) -> Release:
    began = time.monotonic()
    leader = Identity(*kept["leader"]) if kept["leader"] else None
    ended = Outcome([list(row) for row in kept["ended"]], [], 0.0)
    verifier = LocalVerifier.unpacked(probe, kept)
    release = report.release(kept["name"], Why.ASKED, began, [ended], verifier, leader)
    update(leader, verifier, release)
    return release


def _folder() -> Path:
    return ledger.state_path() / "unproved"


def _remove(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()  # fails where other files are left


def _read_all(folder: Path) -> list[dict[str, Any]]:
    """Return the content of each valid file in the folder, oldest first."""
    found = map(_read, sorted(folder.glob("*.json"), key=files.modified))
    return [kept for kept in found if kept is not None]


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    for old in path.parent.iterdir():
        if time.time() - files.modified(old) > MAX_AGE:
            old.unlink(missing_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(kept), encoding="utf-8")
    new.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of the file; None if it is another user's, invalid, old, or of another boot or machine."""
    try:
        if time.time() - files.modified(path) > MAX_AGE or path.stat().st_uid != os.getuid():
            return None
        with path.open("rb") as file:
            kept = json.loads(file.read(LARGEST_FILE))
        fit = isinstance(kept, dict) and all(check(kept[field]) for field, check in _CHECKS.items())
    except (OSError, ValueError, KeyError, RecursionError):
        return None
    return kept if fit and kept["id"] == path.stem and kept["place"] == list(machine.here()) else None


def _gpus(value: Any) -> bool:
    return isinstance(value, list) and all(map(validation.fields, value))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "id": validation.text,
    "name": validation.text,
    "place": lambda value: isinstance(value, list),
    "kernel": validation.pair,
    "leader": lambda value: value is None or validation.pair(value),
    "chosen": validation.texts,
    "baseline": _gpus,
    "loaded": _gpus,
    "before": _gpus,
    "known": validation.pairs,
    "ended": validation.ended_processes,
}
