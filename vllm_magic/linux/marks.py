"""Processes that belong to a server, wherever they went: known by two marks that children inherit, through exec as well.

- An entry of the environment. Everybody can read it, and copy it: who debugs a server runs a command with all of its
  environment. So it shows whom a process speaks of, and is no proof.
- The seal: a resource limit that Linux has had no use for since 2.4.25 (RLIMIT_LOCKS, getrlimit(2)), with the id of the
  server's folder in it. No copy of an environment has it, no program sets it, and it is there for as long as the
  process is, also after its environment is gone, and where that may not be read.

Where limits cannot be set as on Linux (gVisor), the entry is all there is, and counts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from typing import TYPE_CHECKING

from vllm_magic.linux import processes, sessions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.linux.processes import Identity, Process, Table
    from vllm_magic.linux.sessions import Look

MARK = "VLLM_MAGIC_SERVER"  # the entry of a server's processes; its value is the id of the server's folder
_LOCKS = 10  # RLIMIT_LOCKS, include/uapi/asm-generic/resource.h; the module resource has no name for it
_SEALED = 0x564C4C4D << 32  # above the id's 32 bits; a limit that nobody sets by chance


def seal(identifier: str) -> None:
    """Put the seal on this process and all that it starts: its soft limit, so that one inside another has its own.

    Raises:
        OSError: the system does not let it.
        ValueError: the hard limit is lower, or the id is not one of ours.
    """
    _, hard = resource.getrlimit(_LOCKS)
    resource.setrlimit(_LOCKS, (_SEALED | int(identifier, 16), hard))


def members(mark: bytes, leader: Identity | None, known: Iterable[Identity] = ()) -> list[Process]:
    """The living processes with ``mark`` (``b"NAME=value"``), those of the leader's session, ``known`` ones, and all below.

    This process and those above it are none of them, whatever they inherited.
    """
    mine = _own_line()
    look = sessions.look()
    marked = _carriers(look, mark, leader) - mine
    if (
        leader is not None
    ):  # nobody gets into another's session: there the entry is proof enough, also without a seal
        session = look.sessions.get(leader.pid, ())
        marked |= {pid for pid in session if processes.has_environment(pid, mark)} - mine
    sure = set(known)
    table = look.near(marked | {one.pid for one in sure} | ({leader.pid} if leader is not None else set()))
    pids = set(marked & table.keys())
    pids |= {one.pid for one in sure if one.pid in table and table[one.pid].identity == one} - mine
    if leader is not None and _is_its_session(table, leader, pids):
        pids |= processes.server_members(table, leader)
    pids |= processes.descendants(table, *pids)
    unseen = [now for one in sure if one.start == processes.HIDDEN and (now := processes.living(one))]
    return [*(table[pid] for pid in pids - mine if table[pid].alive), *unseen]


def carriers(mark: bytes, leader: Identity | None) -> set[int]:
    """The pids that are proved to be the server's: none is older than the leader, from whom they have it."""
    return _carriers(sessions.look(), mark, leader)


def carries(pid: int, mark: bytes) -> bool:
    """Whether the process was started for the server with this mark; for one that is named, either of the marks will do."""
    return is_proved(pid, mark) or processes.has_environment(pid, mark) or _hides_both(pid)


def _hides_both(pid: int) -> bool:
    """Whether neither mark can be read of this user's process: one that has changed its group (sg(1)) shows them to root alone."""
    try:
        resource.prlimit(pid, _LOCKS)
    except PermissionError:
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        pass
    return False


def strangers(mark: bytes, leader: Identity | None) -> list[Process]:
    """The living processes which have the server's environment and are proved not to be its own, oldest first.

    One in state D is left out: the read of its environment may wait for as long as that lasts.
    """
    if not is_sealed(mark):
        return []
    mine = _own_line()
    found = [
        process
        for pid in _candidates(sessions.look(), leader)
        if pid not in mine and not _has_seal(pid, mark)
        if (process := processes.read(pid)) and process.alive and process.state != "D"
        if processes.has_environment(pid, mark)
    ]
    return sorted(found, key=lambda one: one.identity.start)


def _candidates(look: Look, leader: Identity | None) -> Iterable[int]:
    """Those who can have a mark from this leader: none is older."""
    return look.made_since(leader) if leader else (pid for some in look.sessions.values() for pid in some)


def _carriers(look: Look, mark: bytes, leader: Identity | None) -> set[int]:
    return {pid for pid in _candidates(look, leader) if is_proved(pid, mark)}


def is_proved(pid: int, mark: bytes) -> bool:
    """Whether it is proved that the process belongs to the server with this mark."""
    return _has_seal(pid, mark) if is_sealed(mark) else processes.has_environment(pid, mark)


def _has_seal(pid: int, mark: bytes) -> bool:
    with contextlib.suppress(OSError):
        return resource.prlimit(pid, _LOCKS)[0] == _limit(mark)
    return False


@functools.cache
def _limit(mark: bytes) -> int:
    """The seal of the server with this mark; 0 where its id is none of ours."""
    try:
        return _SEALED | int(mark.partition(b"=")[2], 16)
    except ValueError:
        return 0


@functools.cache
def is_sealed(mark: bytes) -> bool:
    """Whether a server with this mark has a seal: who can set a limit here to what it is could set it for a server too."""
    try:
        soft, hard = resource.getrlimit(_LOCKS)
        resource.setrlimit(_LOCKS, (soft, hard))
    except (OSError, ValueError):  # the latter for EPERM and EINVAL, of a sandbox
        return False
    return _limit(mark) > 0 and (hard == resource.RLIM_INFINITY or hard >= _limit(mark))


def _is_its_session(table: Table, leader: Identity, members: set[int]) -> bool:
    """Whether the session with the leader's number is the leader's still, when he may be long dead.

    A number that nobody used any more may have become another's, who has ended too and left its session behind, as
    a daemon's parent does. Where one of its members is in it, it was in use all the time.
    """
    return leader.pid in table or any(table[pid].session == leader.pid for pid in members)


def _own_line() -> set[int]:
    """This process and its ancestors."""
    line: set[int] = set()
    pid = os.getpid()
    while pid not in line and (process := processes.read(pid)):
        line.add(pid)
        pid = process.parent
    return line
