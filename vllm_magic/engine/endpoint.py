"""The address and the key of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_magic.engine import address as addresses
from vllm_magic.engine.address import LOOPBACK
from vllm_magic.masking import Secret, remember


@dataclass(frozen=True)
class Endpoint:
    """The address, port and key of one server.

    Attributes:
        host: the literal IP address on which the server listens; it may stand for all addresses ("0.0.0.0", "::").
        port: the TCP port.
        api_key: the key that requests to ``/v1`` need.
        secure: whether the server speaks HTTPS.
    """

    host: str
    port: int
    api_key: str = field(repr=False)
    secure: bool = False

    def __post_init__(self) -> None:
        """Check that the host is an address, since the address of a name may change; and mask the key in all texts."""
        addresses.is_loopback(self.host)  # raises ValueError for a name
        remember(self.api_key)
        object.__setattr__(self, "api_key", Secret(self.api_key))

    @property
    def address(self) -> str:
        """The address at which this machine reaches the server, also if the server listens on every address."""
        return LOOPBACK if self.host in addresses.EVERY else self.host

    @property
    def url(self) -> str:
        """The URL at which this machine reaches the server, without a path."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach the server."""
        return not addresses.is_loopback(self.host)
