"""Ports that nobody takes meanwhile: below those that the kernel gives to whoever connects, and each given out once."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Linux gives out 32768 to 60999 (ip(7), ip_local_port_range). Below, each worker of pytest-xdist has a range of its own.
LOWEST = 12_000
EACH = 1_000
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
MINE = range(LOWEST + WORKER * EACH, LOWEST + (WORKER + 1) * EACH)


_never_given = iter(random.sample(MINE, len(MINE)))


def free_ports(count: int) -> list[int]:
    """So many ports that can be bound. No call returns a port that an earlier one returned: nobody may listen there yet."""
    return list(itertools.islice(filter(can_bind, _never_given), count))


def can_bind(port: int) -> bool:
    """Whether a server could listen there, as one that asks for SO_REUSEADDR."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
