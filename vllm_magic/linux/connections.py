"""The established TCP connections of a listening port, and when each of them last carried data.

The kernel reports both by netlink (`sock_diag`; linux/tcp.h). Without netlink, /proc/net/tcp still shows which connections
exist.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import sock_diag, sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST_LIMIT = 1.0  # seconds for a whole answer of the kernel, however many connections there are
ESTABLISHED = 1
_INFO = 2  # INET_DIAG_INFO
_COOKIE = slice(44, 52)  # the cookie in inet_diag_msg, unique to each connection
# tcp_info: last_data_sent and last_data_recv in ms, bytes_received, data_segs_out (Linux 4.6)
_TCP_INFO = struct.Struct("=44xI4xI72xQ20xI")


class TcpConnection(NamedTuple):
    """One connection, as seen from the listening side.

    Attributes:
        name: identifies this connection; no other connection has the same name.
        received: the bytes received so far; None if the kernel does not report it.
        since_received: seconds since this side last received bytes; infinite if the kernel does not report it.
        since_sent: seconds since this side last sent bytes; infinite if it never did, or the kernel does not report it.
    """

    name: bytes
    received: int | None
    since_received: float
    since_sent: float


def established(port: int) -> list[TcpConnection]:
    """Return the established connections to ``port`` of this machine, in this network namespace.

    Raises:
        TimeoutError: neither netlink nor /proc/net/tcp listed all of them within `LIST_LIMIT`.
    """
    deadline = time.monotonic() + LIST_LIMIT
    try:
        return [
            connection
            for family in (socket.AF_INET, socket.AF_INET6)
            for connection in _from_netlink(family, port, deadline)
        ]
    except (OSError, struct.error):
        return [
            TcpConnection(remote.encode(), None, float("inf"), float("inf"))
            for remote in sockets.connected(port, LIST_LIMIT)
        ]


def _from_netlink(family: int, port: int, deadline: float) -> Iterator[TcpConnection]:
    for message in sock_diag.dump(family, ESTABLISHED, deadline, extension=_INFO):
        if struct.unpack_from("!H", message, 4)[0] != port:  # the local port
            continue
        info = dict(_attributes(message[sock_diag.MESSAGE :])).get(_INFO, b"")
        since_sent, since_received, received, sent = _TCP_INFO.unpack_from(info)
        yield TcpConnection(
            message[_COOKIE], received, since_received / 1000, since_sent / 1000 if sent else float("inf")
        )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:  # noqa: PLR2004 - bytes of an rtattr
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[max(4, sock_diag.aligned(length)) :]
