"""Ports that nobody takes meanwhile: below those that the kernel gives to whoever connects."""

from __future__ import annotations

import random
import socket

RANGE = range(12_000, 32_000)  # Linux gives out 32768 to 60999 (ip(7), ip_local_port_range)


def free_ports(count: int, *, odd: bool) -> list[int]:
    """So many ports that can be bound; odd or even ones, since two stages that run side by side choose at once."""
    candidates = RANGE[odd::2]
    found = []
    for port in random.sample(candidates, len(candidates)):
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
