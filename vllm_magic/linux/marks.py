"""Find the processes of a server, or of a watched command, by two marks that child processes inherit, also through exec.

- An entry of the environment. Every process can read and copy it, for example when a person runs a command with the
  server's environment to debug it. So the entry names a server, but does not prove that the process belongs to it.
- The seal: a resource limit that Linux has not used since 2.4.25 (RLIMIT_LOCKS, getrlimit(2)). Its value
  contains the identifier in the entry. A copy of the environment does not include the seal, no program sets
  it, and it lasts as long as the process, even where the environment is gone or may not be read.

The identifier of a server is the id of its folder; that of a watched command is a `children.command_mark.CommandMark`.

If the system does not support this limit (gVisor), there is only the entry, and it counts as proof.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import processes, sessions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.linux.processes import Identity, Process, Table
    from vllm_magic.linux.sessions import SessionScan

# The entry in the environment; its value is the id of the server's folder. vLLM warns about names that begin with VLLM_ and
# that it does not know, and with --fail-on-environ-validation it refuses them (vLLM 0.32, platforms/interface.py).
MARK = "MAGIC_VLLM_SERVER"
COMMAND_MARK = "MAGIC_VLLM_CHILD"  # the same for a watched command
_LOCKS = 10  # RLIMIT_LOCKS, include/uapi/asm-generic/resource.h; the module resource has no name for it


class _Seal(NamedTuple):
    """The seal of a kind of mark: ``bits`` bits with the identifier, and ``head`` above them, which no program sets by chance."""

    head: int
    bits: int


_SEALS = {MARK: _Seal(0x564C4C4D, 32), COMMAND_MARK: _Seal(0x565, 52)}


def seal(identifier: str, name: str = MARK) -> None:
    """Put the seal on this process and on all processes that it starts.

    The seal is the soft limit, so a server that is started inside another server can have a seal of its own.

    Args:
        identifier: the identifier, in hexadecimal digits.
        name: the name of the mark.

    Raises:
        OSError: the system does not allow it.
        ValueError: the hard limit is lower, or the identifier is not one of this package.
    """
    _, hard = resource.getrlimit(_LOCKS)
    head, bits = _SEALS[name]
    resource.setrlimit(_LOCKS, (head << bits | int(identifier, 16), hard))


def members(mark: bytes, leader: Identity | None, known: Iterable[Identity] = ()) -> list[Process]:
    """Return the living processes of a server.

    These are the processes with ``mark`` (``b"NAME=value"``), those of the leader's session, those in
    ``known``, and all their descendants. This process and its ancestors are never included, whatever marks
    they inherited.
    """
    mine = own_ancestry()
    scan = sessions.scan()
    marked = _proved_pids(scan, mark, leader) - mine
    # No process can enter another's session, so in the leader's session the entry is proof without a seal.
    if leader is not None:
        session = scan.sessions.get(leader.pid, ())
        marked |= {pid for pid in session if processes.has_environment(pid, mark)} - mine
    sure = set(known)
    table = scan.near(
        marked | {identity.pid for identity in sure} | ({leader.pid} if leader is not None else set())
    )
    pids = set(marked & table.keys())
    pids |= {
        identity.pid
        for identity in sure
        if identity.pid in table and table[identity.pid].identity == identity
    } - mine
    if leader is not None and _is_its_session(table, leader, pids):
        pids |= processes.server_members(table, leader)
    pids |= processes.descendants(table, *pids)
    unseen = [
        now for identity in sure if identity.start == processes.HIDDEN and (now := processes.living(identity))
    ]
    return [*(table[pid] for pid in pids - mine if table[pid].alive), *unseen]


def identifier_of(pid: int, name: str) -> str:
    """Return the identifier in the mark of this name that a process carries as proof (`is_proved`); "" for none."""
    head, bits = _SEALS[name]
    if not _allows(head << bits):
        return processes.environment(pid).get(name, "")
    with contextlib.suppress(OSError):
        limit = resource.prlimit(pid, _LOCKS)[0]
        if limit >> bits == head:
            return f"{limit & (1 << bits) - 1:0{bits // 4}x}"
    return ""


def proved_pids(mark: bytes, leader: Identity | None) -> set[int]:
    """Return the pids of the processes that are proved to belong to the server. None of them is older than the leader."""
    return _proved_pids(sessions.scan(), mark, leader)


def is_marked(pid: int, mark: bytes) -> bool:
    """Whether the process was started for the server with this mark.

    Either mark is enough here, since the caller asks about one particular process.
    """
    return is_proved(pid, mark) or processes.has_environment(pid, mark) or _hides_both(pid)


def _hides_both(pid: int) -> bool:
    """Whether this is a process of this user whose marks cannot be read.

    A process that has changed its group (sg(1)) shows its marks to root alone.
    """
    try:
        resource.prlimit(pid, _LOCKS)
    except PermissionError:
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        pass
    return False


def with_copied_environment(mark: bytes, leader: Identity | None) -> list[Process]:
    """Return the living processes that have the server's entry and are proved not to belong to it, oldest first.

    Processes in state D are left out: reading their environment may block for as long as that state lasts.
    """
    if not is_sealed(mark):
        return []
    mine = own_ancestry()
    found = [
        process
        for pid in _candidates(sessions.scan(), leader)
        if pid not in mine and not _has_seal(pid, mark)
        if (process := processes.read(pid)) and process.alive and process.state != "D"
        if processes.has_environment(pid, mark)
    ]
    return sorted(found, key=lambda process: process.identity.start)


def _candidates(scan: SessionScan, leader: Identity | None) -> Iterable[int]:
    """Return the pids of processes that are not older than the leader, so that they can have inherited its mark."""
    return scan.made_since(leader) if leader else (pid for some in scan.sessions.values() for pid in some)


def _proved_pids(scan: SessionScan, mark: bytes, leader: Identity | None) -> set[int]:
    return {pid for pid in _candidates(scan, leader) if is_proved(pid, mark)}


def is_proved(pid: int, mark: bytes) -> bool:
    """Whether it is proved that the process belongs to the server with this mark."""
    return _has_seal(pid, mark) if is_sealed(mark) else processes.has_environment(pid, mark)


def _has_seal(pid: int, mark: bytes) -> bool:
    with contextlib.suppress(OSError):
        return resource.prlimit(pid, _LOCKS)[0] == _limit(mark)
    return False


@functools.cache
def _limit(mark: bytes) -> int:
    """Return the seal for this mark; 0 if the identifier is not one of this package."""
    name, _, identifier = mark.partition(b"=")
    head, bits = _SEALS[name.decode()]
    try:
        return head << bits | int(identifier, 16)
    except ValueError:
        return 0


@functools.cache
def is_sealed(mark: bytes) -> bool:
    """Whether a server or command with this mark has a seal."""
    return _limit(mark) > 0 and _allows(_limit(mark))


@functools.cache
def _allows(limit: int) -> bool:
    """Whether this process can put this seal on a process.

    If it can set its own limit to the present value, it could also set the limit for a server.
    """
    try:
        soft, hard = resource.getrlimit(_LOCKS)
        resource.setrlimit(_LOCKS, (soft, hard))
    except (OSError, ValueError):  # ValueError stands for EPERM and EINVAL, as in a sandbox
        return False
    return hard == resource.RLIM_INFINITY or hard >= limit


def _is_its_session(table: Table, leader: Identity, members: set[int]) -> bool:
    """Whether the session with the leader's number is still the leader's, even if the leader died long ago.

    The kernel may give a number that is no longer in use to another process. That process may have ended too
    and left its session behind, as a daemon's parent does. If a member of the server is in the session, the
    number was in use all the time.
    """
    return leader.pid in table or any(table[pid].session == leader.pid for pid in members)


def own_ancestry() -> set[int]:
    """Return the pids of this process and its ancestors."""
    line: set[int] = set()
    pid = os.getpid()
    while pid not in line and (process := processes.read(pid)):
        line.add(pid)
        pid = process.parent
    return line
