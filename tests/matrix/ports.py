"""Ports that nobody takes meanwhile: below those that the kernel gives to whoever connects."""

from __future__ import annotations

import random
import socket

# Linux gives out 32768 to 60999 (ip(7), ip_local_port_range). Those who choose at the same time have one each.
OURS, OTHERS, JUPYTER = range(12_000, 22_000), range(22_000, 32_000), range(10_000, 12_000)


def free_ports(count: int, among: range) -> list[int]:
    """So many ports that can be bound."""
    found = []
    for port in random.sample(among, len(among)):
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
