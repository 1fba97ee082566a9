"""The TCP sockets of this network namespace, as the kernel lists them by netlink (sock_diag(7), linux/inet_diag.h).

Only the sockets in one state are read. /proc/net/tcp takes a few milliseconds even where there is no connection, because
the kernel goes through its whole table of connections. The kernel does not answer where its module is missing or a
sandbox forbids the call.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = 72  # bytes of inet_diag_msg; attributes follow
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP = 4, 20, 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3  # of NLMSG_*
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2, for any port and address


def dump(family: int, state: int, deadline: float, *, extension: int = 0) -> Iterator[bytes]:
    """Yield an inet_diag_msg with its attributes for each TCP socket in this state.

    Args:
        family: AF_INET or AF_INET6.
        state: the state, as the kernel numbers it (net/tcp_states.h).
        deadline: the time when all of them must have arrived, by `time.monotonic`.
        extension: the attribute to ask for (INET_DIAG_*); 0 for none.

    Raises:
        OSError: the kernel refuses, or has not sent all by the deadline (TimeoutError).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(max(0.0, deadline - time.monotonic()))
        words = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << extension >> 1, 1 << state)
        asking.send(_HEADER.pack(_HEADER.size + len(words), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0) + words)
        while (rest := deadline - time.monotonic()) > 0:
            asking.settimeout(rest)
            data = asking.recv(2**20)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR or length < _HEADER.size:
                    raise OSError("the kernel refuses the request")
                yield data[_HEADER.size : length]
                data = data[aligned(length) :]
    raise TimeoutError


def aligned(length: int) -> int:
    """Return the length, in bytes, rounded up to whole words of netlink."""
    return (length + 3) & ~3
