"""Who listens on a TCP port: from /proc/net/tcp and the descriptors of processes (proc_pid_net(5))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.linux.processes import open_files

if TYPE_CHECKING:
    from collections.abc import Iterable

LISTEN = "0A"


def listens(pids: Iterable[int], port: int) -> bool:
    """Whether one of these processes has the listening socket of ``port``."""
    links = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    return bool(links) and any(links & set(open_files(pid).values()) for pid in pids)


def listening_inodes(port: int) -> set[str]:
    """The inodes of the sockets that listen on ``port`` in this network namespace, IPv4 and IPv6."""
    found = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        for row in rows:
            if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port:
                found.add(row[9])
    return found
