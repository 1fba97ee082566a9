"""Find servers and logs of any kernel by name."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine.startup.log import Follower
from vllm_magic.errors import ServerNotFound
from vllm_magic.ledger import Condition
from vllm_magic.linux import files, pidfd
from vllm_magic.linux.processes import Identity, environment, is_alive
from vllm_magic.masking import secret_values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vllm_magic.guard.record import Record
    from vllm_magic.ledger import Entry

POLL_INTERVAL = 0.25  # seconds between two reads of a log that is followed
LIVING = (Condition.OWNED, Condition.KEPT, Condition.RELEASING, Condition.HUNG)


def living(name: str) -> tuple[Entry, Record]:
    """Return the living server of this name or id.

    Raises:
        ServerNotFound: there is no such server, or more than one.
    """
    entries = ledger.entries()
    running = [(entry, entry.record) for entry in entries if entry.record and entry.condition in LIVING]
    found = [(entry, record) for entry, record in running if name in (record.name, entry.id)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{entry.id} (kernel {record.kernel[0]})" for entry, record in found)
        raise ServerNotFound(f"Several kernels have a server {name}. Give its id instead: {ids}.")
    for entry in entries:
        if entry.record and entry.condition is Condition.ORPHANED and name in (entry.record.name, entry.id):
            raise ServerNotFound(f"{name} was left behind by a dead kernel: vllm-magic reap releases it.")
    names = ", ".join(sorted({record.name for _, record in running}))
    others = f"Running servers: {names}." if names else "No other server runs either."
    raise ServerNotFound(f"No server {name} runs. {others}")


def log(name: str) -> Path:
    """Return the log of the living server with this name or id; without one, the newest log of an ended server.

    Raises:
        ServerNotFound: there is no such log.
    """
    try:
        return living(name)[0].folder.log
    except ServerNotFound as error:
        ended = _newest_kept_log(name)
        if not ended:
            raise ServerNotFound(
                f"{error} There is no log of an earlier server of this name either."
            ) from None
        return ended


def secrets(name: str) -> list[str]:
    """Return the keys that must be masked in the log of a server: this user's keys, and those of a living server."""
    environ = dict(os.environ)
    with contextlib.suppress(ServerNotFound):
        leader = living(name)[1].leader
        if leader and is_alive(Identity(*leader)):
            environ |= environment(leader[0])
    return secret_values(environ)


def follow(name: str, count: int) -> Iterator[str]:
    """Yield the last ``count`` lines of the log, then each new line, until the server has ended.

    Raises:
        ServerNotFound: there is no log.
    """
    follower = Follower(log(name), secrets(name))
    yield from follower.new_lines()[-count:]
    try:
        entry, record = living(name)
    except ServerNotFound:  # it has ended
        return
    processes = [Identity(*pair) for pair in (record.outer, record.inner, record.leader) if pair]
    while any(map(is_alive, processes)):
        pidfd.wait_for_any(filter(is_alive, processes), POLL_INTERVAL)
        yield from follower.new_lines()
    follower.path = entry.folder.kept_log  # where the release has moved the log
    yield from follower.new_lines()


def _newest_kept_log(name: str) -> Path | None:
    """Return the newest log of an ended server of this name, id, or NAME-ID; None if there is none."""
    found = [path for called, id_, path in ledger.kept_logs() if name in (called, id_, f"{called}-{id_}")]
    return max(found, key=files.modified, default=None)
