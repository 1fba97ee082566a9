"""A free TCP port for a server, which binds it some seconds later.

Until then the kernel may name it again to whoever asks for a free one: of 50 servers that start side by side two would
have the same port in one of 25 cases. So what was given here lately is not given again.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from vllm_magic.linux import forks

REMEMBERED = 1000  # ports; Linux has 28,232 to choose from unless told otherwise (ip(7), ip_local_port_range)

# Each port with the object of the call that gave it, the oldest first. There is no lock: a signal handler of the program may
# interrupt any thread that would hold it. Each single operation on a dict is atomic.
_given: dict[int, object] = {}


def choose(host: str) -> int:
    """A port of this address on which nobody listens.

    Raises:
        OSError: the address is not of this machine, or all ports are taken.
    """
    call = object()
    with ExitStack() as refused:
        while True:  # each one that is refused stays bound here, so that it is not named once more
            probe = refused.enter_context(bind(host, 0))
            port = int(probe.getsockname()[1])
            if _given.setdefault(port, call) is call:
                for oldest in [*_given][:-REMEMBERED]:
                    _given.pop(oldest, None)
                return port


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to this port, to be closed by the caller; 0 lets the kernel choose.

    Raises:
        OSError: it is taken, or not to be had.
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
