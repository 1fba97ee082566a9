"""Choose a free TCP port for a server, which binds the port some seconds later.

Until then, Linux may give the same port to another caller: if 50 servers start at the same time, two of them have the
same port in one of 25 cases. So a port that was returned recently is not returned again.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from vllm_magic.linux import forks

REMEMBERED = 1000  # ports; by default Linux chooses from 28,232 (ip(7), ip_local_port_range)

# Each port with the object of the call that returned it, the oldest first. There is no lock: a signal handler of the program may
# interrupt any thread that would hold it. Each single operation on a dict is atomic.
_given: dict[int, object] = {}


def choose(host: str) -> int:
    """Return a free port of this address.

    Raises:
        OSError: the address is not of this machine, or all ports are taken.
    """
    call = object()
    with ExitStack() as refused:
        while True:  # a refused port stays bound during this call, so that Linux does not choose it again
            probe = refused.enter_context(bind(host, 0))
            port = int(probe.getsockname()[1])
            if _given.setdefault(port, call) is call:
                for oldest in [*_given][:-REMEMBERED]:
                    _given.pop(oldest, None)
                return port


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
