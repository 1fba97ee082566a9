"""Find kept servers, which wait for another kernel after the end of their own kernel, and take them over."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.errors import ServerNotFound, reason
from vllm_magic.guard.client import AttachedGuards, AttachRefusedError
from vllm_magic.ledger import Condition
from vllm_magic.linux.processes import Identity
from vllm_magic.provisioning import serialization

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.guard.record import Record
    from vllm_magic.ledger import Entry


@dataclass(frozen=True)
class Attachment:
    """A kept server that this kernel has taken over.

    Attributes:
        entry: the entry of the ledger.
        guards: the server's guards, which have accepted this kernel.
        spec: the spec of the server.
        command: the command of the server.
    """

    entry: Entry
    guards: AttachedGuards
    spec: ServerSpec
    command: Command


def entries(name: str | None = None, but: Collection[str] = ()) -> list[Entry]:
    """Return the kept servers.

    Args:
        name: a name or a folder's id; None for all kept servers.
        but: the ids of folders that are not read.

    Raises:
        ServerNotFound: the state folder cannot be read.
    """
    try:
        waiting = [entry for entry in ledger.entries(but=but) if entry.condition is Condition.KEPT]
    except OSError as error:
        raise ServerNotFound(f"The state folder cannot be used: {error}") from error
    return [entry for entry in waiting if name in (None, entry.id, entry.record and entry.record.name)]


def find(name: str | None) -> Entry:
    """Return the kept server with this name or folder's id; for None the only kept server.

    Raises:
        ServerNotFound: there is no such server, or more than one.
    """
    found = entries(name)
    if len(found) == 1:
        return found[0]
    if not found:
        which = f"No server called {name} waits" if name else "No server waits"
        raise ServerNotFound(f"{which} for a kernel. %vllm start ... --keep 10m keeps a server.")
    listed = ", ".join(f"{entry.record.name} ({entry.id})" for entry in found if entry.record)
    raise ServerNotFound(f"Which one? These wait: {listed}. Give the name, or the id in brackets.")


def take_by_spec(spec: ServerSpec) -> Attachment | None:
    """Take over the kept server that was started with an equal spec; return None if there is none.

    Raises:
        ServerNotFound: the state folder cannot be read.
    """
    expected_spec = json.loads(json.dumps(serialization.pack_spec(spec)))
    for entry in entries(spec.name):
        with contextlib.suppress(ServerNotFound):
            return take(entry, expected_spec)
    return None


def notices(but: Collection[str] = ()) -> list[str]:
    """Return a line for each kept server; empty if the state folder cannot be read, which a start reports.

    Args:
        but: as for `entries`.
    """
    with contextlib.suppress(ServerNotFound):
        records = [entry.record for entry in entries(but=but) if entry.record]
        return [
            f"{record.name} outlived its kernel, and waits{_shown_time(record)}: "
            f"%vllm attach {record.name} takes it over."
            for record in records
        ]
    return []


def attach_hint(name: str | None) -> str:
    """Return a sentence that says how to take over a kept server of this name, with a space before it; "" without one."""
    with contextlib.suppress(ServerNotFound):
        names = [entry.record.name for entry in entries(name) if entry.record]
        return "".join(f" {kept} outlived its kernel: %vllm attach {kept} takes it over." for kept in names)
    return ""


def take(entry: Entry, expected_spec: dict[str, object] | None = None) -> Attachment:
    """Make this process the kernel of a kept server. After `Guards.disconnect`, the server waits for a kernel again.

    Args:
        entry: the server.
        expected_spec: the spec that the server must have been started with, packed; None accepts any spec.

    Raises:
        ServerNotFound: the server cannot be taken over; the message says why.
    """
    record = entry.record
    if record is None or record.outer is None:
        raise ServerNotFound(
            f"The record in {entry.path} does not name the guards. vllm-magic doctor shows more."
        )
    try:
        guards = AttachedGuards(entry.path, Identity(*record.outer), expected_spec)
    except OSError as error:
        hint = f"vllm-magic stop {entry.id} ends it" if isinstance(error, TimeoutError) else "Try again"
        raise ServerNotFound(f"{record.name} cannot be attached: {reason(error)}. {hint}.") from error
    except AttachRefusedError as error:
        raise ServerNotFound(f"{record.name} cannot be attached: {error}.") from error
    try:
        return Attachment(entry, guards, *serialization.unpack_owner(guards.handover))
    except (LookupError, TypeError, ValueError) as error:
        guards.disconnect()
        raise ServerNotFound(
            f"{record.name} cannot be attached: another version of vllm_magic has started it. "
            f"To end it: vllm-magic stop {entry.id}"
        ) from error
    except BaseException:
        guards.disconnect()
        raise


def _shown_time(record: Record) -> str:
    if record.kept_for is None:  # the guards are about to write the time, or the disk was full
        return " for another one"
    return time.strftime(" until %H:%M:%S", time.localtime(time.time() + record.kept_for))
