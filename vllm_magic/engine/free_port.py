"""Choose a free TCP port for a server, which binds the port some seconds later.

Until then, Linux may give the same port to another program, for a connection or a server of its own. So the port is one
below those that Linux gives to programs (ip_local_port_range, ip(7)), if there are such. And a port that was returned
recently is not returned again: if 50 servers start at the same time, two of them would have the same port in one of 25 cases.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from vllm_magic.linux import forks

REMEMBERED = 1000  # ports; by default Linux chooses from 28,232 (ip(7), ip_local_port_range)

LOWEST = 20_000  # below it are the usual ports of other programs
ATTEMPTS = 50
_GIVEN_BY_LINUX = Path("/proc/sys/net/ipv4/ip_local_port_range")

# Each port with the object of the call that returned it, the oldest first. There is no lock: a signal handler of the program may
# interrupt any thread that would hold it. Each single operation on a dict is atomic.
_given: dict[int, object] = {}


def choose(host: str) -> int:
    """Return a free port of this address.

    Raises:
        OSError: the address is not of this machine, or all ports are taken.
    """
    for port in _candidates():
        with suppress(OSError), bind(host, port):
            if _is_new(port):
                return port
    with ExitStack() as refused:
        while True:  # a refused port stays bound during this call, so that Linux does not choose it again
            probe = refused.enter_context(bind(host, 0))
            port = int(probe.getsockname()[1])
            if _is_new(port):
                return port


def _candidates() -> list[int]:
    """Return some ports that Linux gives to no program, in random order."""
    try:
        first = int(_GIVEN_BY_LINUX.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return []
    ports = range(LOWEST, first)
    return random.sample(ports, min(ATTEMPTS, len(ports)))


def _is_new(port: int) -> bool:
    """Whether this port was not returned recently; it counts as returned from now on."""
    call = object()
    if _given.setdefault(port, call) is not call:
        return False
    for oldest in [*_given][:-REMEMBERED]:
        _given.pop(oldest, None)
    return True


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to this port, which the caller closes; for 0 the kernel chooses the port.

    Raises:
        OSError: the port is taken, or this user may not bind it.
    """
    probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    forks.keep_out(probe)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM binds it
        probe.bind((host, port))
    except BaseException:
        probe.close()
        raise
    return probe
