"""Ports that nobody takes meanwhile: below those that the kernel gives to whoever connects."""

from __future__ import annotations

import os
import random
import socket

# Linux gives out 32768 to 60999 (ip(7), ip_local_port_range). Below, each worker of pytest-xdist has a range of its own.
LOWEST = 12_000
EACH = 1_000
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
MINE = range(LOWEST + WORKER * EACH, LOWEST + (WORKER + 1) * EACH)


def free_ports(count: int) -> list[int]:
    """So many ports that can be bound."""
    found = []
    for port in random.sample(MINE, len(MINE)):
        if len(found) == count:
            break
        if can_bind(port):
            found.append(port)
    return found


def can_bind(port: int) -> bool:
    """Whether a server could listen there, as one that asks for SO_REUSEADDR."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
