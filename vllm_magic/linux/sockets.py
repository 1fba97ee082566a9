"""Find the processes that listen on a TCP port, by netlink or /proc/net/tcp (proc_pid_net(5)), and by open files."""

from __future__ import annotations

import ipaddress
import math
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import details, sock_diag
from vllm_magic.linux.processes import hides_files, open_files
from vllm_magic.linux.processes import pids as all_pids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ESTABLISHED, LISTEN = "01", "0A"
_LIST_LIMIT = 1.0  # seconds for the kernel to list all listening sockets by netlink
_LISTENING = 10  # LISTEN, as a number
# inet_diag_msg: port and address (in network byte order), uid, inode
_SOCKET = struct.Struct("=4x2s2x16s40xII")


class Listener(NamedTuple):
    """A listening socket; ``pid`` is None if this user cannot see its process, ``uid`` is known even then."""

    port: int
    pid: int | None
    uid: int


class _Socket(NamedTuple):
    """A listening socket, as the kernel lists it."""

    inode: str
    address: str
    port: int
    uid: int

    @property
    def link(self) -> str:
        """The target of the link in /proc for a descriptor of this socket."""
        return f"socket:[{self.inode}]"


def listens(pids: Iterable[int], address: str, port: int) -> bool | None:
    """Whether these processes, and no others, accept the connections to an address; None if Linux does not show this.

    A process that may not be dumped (PR_SET_DUMPABLE, prctl(2); a program with file capabilities) hides its open files from
    all users but root. A listening socket of its user that no visible process has counts as a socket of this process.

    Args:
        pids: the processes.
        address: a literal IP address of this machine.
        port: the TCP port.
    """
    found = _nearest(address, port)
    return None if found is None else _belong(found, pids)


class ListenerCheck:
    """Checks repeatedly whether some processes, and no others, accept the connections to an address, like `listens`.

    The first check reads the open files of the processes. Later checks only ask the kernel for the listening sockets: while
    these are the same, their owner is the same. Safe to use from any thread.

    Args:
        address: a literal IP address of this machine.
        port: the TCP port.
    """

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._known: list[_Socket] = []

    def belongs_to(self, pids: Callable[[], Iterable[int]]) -> bool | None:
        """Whether the address belongs to these processes now; None if Linux does not show this.

        Args:
            pids: returns the pids; it is called only if they are needed.
        """
        found = _nearest(self._address, self._port)
        if found is None:
            return None
        if found and found == self._known:
            return True
        belongs = _belong(found, pids())
        if belongs:
            self._known = found
        return belongs


def _belong(found: list[_Socket], pids: Iterable[int]) -> bool:
    """Whether there are any sockets, and all of them belong to these processes."""
    ours = set(pids)
    held = _held(ours) if found else set()
    others = [entry for entry in found if entry.link not in held]
    if others:
        hidden = {details.uid(pid) for pid in ours if hides_files(pid)}
        if not all(entry.uid in hidden for entry in others) or _held(all_pids()) & {
            entry.link for entry in others
        }:
            return False
    return bool(found)


def _held(pids: Iterable[int]) -> set[str]:
    return {link for pid in pids for link in open_files(pid).values()}


def _nearest(address: str, port: int) -> list[_Socket] | None:
    """Return the sockets that accept connections to an address; None if Linux does not list them.

    As in the kernel (net/ipv4/inet_hashtables.c), these are the sockets of this very address; if there are none, the sockets
    of all addresses of its family; if there are none and the address is IPv4, the sockets of all IPv6 addresses.
    """
    found = _listening()
    if found is None:
        return None
    is_ipv4 = ipaddress.ip_address(address).version == 4  # noqa: PLR2004
    any_ipv4 = "0.0.0.0"  # noqa: S104 - to find sockets that listen on it
    mapped = [(name, f"::ffff:{name}") for name in (address, any_ipv4)]
    for nearest in (*mapped, ("::",)) if is_ipv4 else ((address,), ("::",)):
        names = {_name(name) for name in nearest}
        near = [entry for entry in found if entry.port == port and entry.address in names]
        if near:
            return near
    return []


def listeners(ports: Iterable[int], pids: Iterable[int]) -> list[Listener]:
    """Return the listening sockets of these ports, with an entry for each of the processes ``pids`` that has the socket."""
    wanted = set(ports)
    sockets = {entry.inode: entry for entry in _listening() or () if entry.port in wanted}
    links = {entry.link: inode for inode, entry in sockets.items()}
    holders: dict[str, set[int]] = {inode: set() for inode in sockets}
    for pid in pids if links else ():
        for link in links.keys() & set(open_files(pid).values()):
            holders[links[link]].add(pid)
    return sorted(
        {
            Listener(entry.port, pid, entry.uid)
            for inode, entry in sockets.items()
            for pid in holders[inode] or (None,)
        },
        key=lambda listener: (listener.port, listener.pid or 0, listener.uid),
    )


def connected(port: int, limit: float) -> list[str]:
    """Return the remote address of each established connection of ``port``, as /proc/net/tcp writes it.

    Args:
        port: the local TCP port.
        limit: seconds to read the connections of the network namespace.

    Returns:
        The addresses; empty if /proc/net/tcp cannot be read.

    Raises:
        TimeoutError: reading took longer.
    """
    rows = _rows(time.monotonic() + limit) or ()
    return [row[2] for row in rows if row[3] == ESTABLISHED and _port(row) == port]


def _listening() -> list[_Socket] | None:
    """Return the listening sockets of this network namespace, sorted; None if they cannot be read."""
    try:
        return sorted(_from_netlink())
    except (OSError, struct.error):
        return _from_proc()


def _from_netlink() -> Iterator[_Socket]:
    deadline = time.monotonic() + _LIST_LIMIT
    for family, length in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        for message in sock_diag.dump(family, _LISTENING, deadline):
            port, address, uid, inode = _SOCKET.unpack_from(message)
            shown = str(ipaddress.ip_address(address[:length]))
            yield _Socket(str(inode), shown, int.from_bytes(port, "big"), uid)


def _from_proc() -> list[_Socket] | None:
    rows = _rows()
    return None if rows is None else sorted(_socket(row) for row in rows if row[3] == LISTEN)


def _rows(deadline: float = math.inf) -> list[list[str]] | None:
    found: list[list[str]] = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, encoding="ascii") as file:
                found += [line.split() for line in _until(deadline, file)][1:]
        except TimeoutError:
            raise
        except FileNotFoundError:
            if name.endswith("6"):  # a kernel without IPv6
                continue
            return None
        except OSError:
            return None
    return found


def _until(deadline: float, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if time.monotonic() >= deadline:
            raise TimeoutError
        yield line


def _socket(row: list[str]) -> _Socket:
    return _Socket(row[9], _address(row[1].rpartition(":")[0]), _port(row), int(row[7]))


def _port(row: list[str]) -> int:
    return int(row[1].rpartition(":")[2], 16)


def _address(text: str) -> str:
    """Return the address that /proc/net/tcp writes in words of 32 bits, each in the byte order of the machine."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return str(ipaddress.ip_address(packed))


def _name(address: str) -> str:
    return str(ipaddress.ip_address(address.partition("%")[0]))
