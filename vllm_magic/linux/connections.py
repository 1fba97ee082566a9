"""The established TCP connections of a listening port, and when each of them last carried data.

The kernel tells this by netlink (sock_diag(7); linux/inet_diag.h and tcp.h). Where it does not, because its
module is missing or a sandbox forbids the call, /proc/net/tcp still tells which connections exist.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1.0  # seconds for a whole answer of the kernel, however many connections there are
ESTABLISHED = 1
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP = 4, 20, 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3  # of NLMSG_*
_INFO = 2  # INET_DIAG_INFO
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2, for any port and address
_MESSAGE = 72  # bytes of inet_diag_msg
_COOKIE = slice(44, 52)  # the cookie in inet_diag_msg, unique to each connection
# tcp_info: last_data_sent and last_data_recv in ms, bytes_received, data_segs_out (Linux 4.6)
_TCP_INFO = struct.Struct("=44xI4xI72xQ20xI")


class Connection(NamedTuple):
    """One connection, as seen from the listening side.

    Attributes:
        name: identifies this connection; no other connection has the same name.
        received: bytes received so far; None where the kernel does not say.
        silent: seconds since this side last received bytes; infinite where the kernel does not say.
        mute: seconds since this side last sent bytes; infinite if it never did, or where the kernel does not
            say.
    """

    name: bytes
    received: int | None
    silent: float
    mute: float


def established(port: int) -> list[Connection]:
    """The established connections to ``port`` of this machine, in this network namespace.

    Raises:
        TimeoutError: neither netlink nor /proc/net/tcp told all of them within `LIMIT`.
    """
    deadline = time.monotonic() + LIMIT
    try:
        return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _told(family, port, deadline)]
    except (OSError, struct.error):
        return [
            Connection(remote.encode(), None, float("inf"), float("inf"))
            for remote in sockets.connected(port, LIMIT)
        ]


def _told(family: int, port: int, deadline: float) -> Iterator[Connection]:
    for message in _dump(family, deadline):
        if struct.unpack_from("!H", message, 4)[0] != port:  # the local port
            continue
        info = dict(_attributes(message[_MESSAGE:])).get(_INFO, b"")
        mute, silent, received, sent = _TCP_INFO.unpack_from(info)
        yield Connection(message[_COOKIE], received, silent / 1000, mute / 1000 if sent else float("inf"))


def _dump(family: int, deadline: float) -> Iterator[bytes]:
    """Yield an inet_diag_msg with its attributes for each established connection of the network namespace.

    Raises:
        OSError: the kernel refuses, or has not told all by the deadline.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(LIMIT)
        words = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 1 << ESTABLISHED)
        asking.send(_HEADER.pack(_HEADER.size + len(words), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0) + words)
        while (rest := deadline - time.monotonic()) > 0:
            asking.settimeout(rest)
            data = asking.recv(2**20)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR or length < _HEADER.size:
                    raise OSError("the kernel refuses it")
                yield data[_HEADER.size : length]
                data = data[_aligned(length) :]
    raise TimeoutError


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:  # noqa: PLR2004 - bytes of an rtattr
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[max(4, _aligned(length)) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
