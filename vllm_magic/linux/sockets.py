"""Who listens on a TCP port: from /proc/net/tcp and the descriptors of processes (proc_pid_net(5))."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux.processes import open_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LISTEN = "0A"


class Listener(NamedTuple):
    """A listening socket: ``pid`` is None where its process cannot be seen, ``uid`` is told all the same."""

    port: int
    pid: int | None
    uid: int


def listens(pids: Iterable[int], port: int) -> bool:
    """Whether one of these processes has the listening socket of ``port``."""
    links = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    return bool(links) and any(links & set(open_files(pid).values()) for pid in pids)


def listening_inodes(port: int) -> set[str]:
    """The inodes of the sockets that listen on ``port`` in this network namespace, IPv4 and IPv6."""
    return {inode for inode, (listening, _) in _listening().items() if listening == port}


def listeners(ports: Iterable[int], pids: Iterable[int]) -> list[Listener]:
    """Who listens on these ports, looked for among ``pids``; one entry for each socket and process that has it."""
    wanted = set(ports)
    sockets = {inode: found for inode, found in _listening().items() if found[0] in wanted}
    links = {f"socket:[{inode}]": inode for inode in sockets}
    holders: dict[str, set[int]] = {inode: set() for inode in sockets}
    for pid in pids if links else ():
        for link in links.keys() & set(open_files(pid).values()):
            holders[links[link]].add(pid)
    return sorted(
        {
            Listener(port, pid, uid)
            for inode, (port, uid) in sockets.items()
            for pid in holders[inode] or (None,)
        },
        key=lambda one: (one.port, one.pid or 0, one.uid),
    )


def _listening() -> dict[str, tuple[int, int]]:
    """Port and user id of each listening socket, by its inode."""
    return {row[9]: (int(row[1].rpartition(":")[2], 16), int(row[7])) for row in _rows() if row[3] == LISTEN}


def _rows() -> Iterator[list[str]]:
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, encoding="ascii") as file:
                yield from [line.split() for line in file][1:]
        except OSError:
            continue
