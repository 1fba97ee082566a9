"""Where a server listens: one literal IP address, so that who binds it and who connects to it mean the same one.

A name such as "localhost" may have several: vLLM binds its IPv4 address, and a client tries ``::1`` first.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from vllm_magic.linux import lookups

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
EVERY = ("0.0.0.0", "::")  # noqa: S104 - recognised here, so that it can be warned about


def resolve(host: str) -> str:
    """The address that the words behind ``--host`` stand for; of a name the first IPv4 address, which vLLM binds.

    Raises:
        OSError: there is no such host, or looking it up takes more than `lookups.LIMIT` seconds.
    """
    try:
        found = [ipaddress.ip_address(host)]
    except ValueError:
        try:
            answers = lookups.addresses(host, None)
        except UnicodeError:  # it cannot be a name
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        found = [ipaddress.ip_address(answer.place[0]) for answer in answers]
    chosen = min(found, key=lambda one: one.version)
    return str(getattr(chosen, "ipv4_mapped", None) or chosen)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(address).is_loopback


def past_proxies(environ: Mapping[str, str], address: str) -> dict[str, str]:
    """The variables with which a program asks a server at this address itself, and everybody else as before.

    Args:
        environ: the program's, as it was to be. Of both variables Python prefers the lower one, where it is set.
        address: a literal IP address.
    """
    ours = [address, f"[{address}]"] if ":" in address else [address]
    values = {}
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        before = environ.get(name, environ.get(other, "")).strip().rstrip(",")
        values[name] = before if before == "*" else ",".join(filter(None, (before, *ours)))
    return values
