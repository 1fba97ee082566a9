"""The address on which a server listens: a literal IP address, so that the server and its clients use the same one.

A name such as "localhost" may have several addresses: vLLM binds its IPv4 address, and a client tries ``::1`` first.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from vllm_magic.linux import lookups

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
EVERY = ("0.0.0.0", "::")  # noqa: S104 - for a warning about servers on all addresses


def resolve(host: str, limit: float | None = None) -> str:
    """Return the address for a value of ``--host``; for a name its first IPv4 address, which vLLM binds.

    Args:
        host: a name or an address.
        limit: seconds for the look-up of a name; None for `lookups.HOST_LIMIT`.

    Raises:
        OSError: there is no such host, or the look-up takes longer.
    """
    try:
        found = [ipaddress.ip_address(host)]
    except ValueError:
        try:
            answers = lookups.addresses(host, None, limit)
        except UnicodeError:  # not a valid name
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        found = [ipaddress.ip_address(answer.place[0]) for answer in answers]
    chosen = min(found, key=lambda address: address.version)
    return str(getattr(chosen, "ipv4_mapped", None) or chosen)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    return ipaddress.ip_address(address).is_loopback


def no_proxy_variables(environ: Mapping[str, str], address: str) -> dict[str, str]:
    """Return the variables with which a program uses no proxy for this address, and the same proxies as before for others.

    Args:
        environ: the program's environment. Python prefers the variable in lower case, if both are set.
        address: a literal IP address.
    """
    ours = [address, f"[{address}]"] if ":" in address else [address]
    values = {}
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        before = environ.get(name, environ.get(other, "")).strip().rstrip(",")
        values[name] = before if before == "*" else ",".join(filter(None, (before, *ours)))
    return values
