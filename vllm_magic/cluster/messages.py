"""What is asked of a cluster, and what it is told of; both are packed as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """A server to be started on a node.

    Attributes:
        model: a Hugging Face name, or a folder on the node.
        args: flags of ``vllm serve``.
        executable: path of ``vllm`` on the node, or None for the one that is found there.
        env: on top of the node's environment; it holds the key.
        host: the address of the node to listen on.
        force: start it also where the GPUs have too little free memory, or vLLM has no such flag.
        lease: seconds without a renewal until the job ends itself.
    """

    model: str
    args: tuple[str, ...]
    executable: str | None
    env: dict[str, str]
    host: str
    force: bool
    lease: float

    def packed(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()


def unpack(data: bytes) -> Order:
    """The other way."""
    fields: dict[str, Any] = json.loads(data)
    return Order(**{**fields, "args": tuple(fields["args"])})


@dataclass(frozen=True)
class Errand:
    """What an agent is told, in its environment.

    Attributes:
        address: of the cluster.
        job: the submission id.
        name: the server's.
        model: as in `Order`.
        args: as in `Order`.
        executable: as in `Order`.
        env: names of variables of the agent's own environment that the server gets.
        port: of the loopback interface here, which is forwarded.
        gpus: that the job needs; 0 leaves them to a placement group of vLLM's.
        force: as in `Order`.
        vllm: version of the vLLM of this machine; "" where there is none, or nobody knows.
    """

    address: str
    job: str
    name: str
    model: str
    args: tuple[str, ...]
    executable: str | None
    env: tuple[str, ...]
    port: int
    gpus: int
    force: bool
    vllm: str = ""

    def packed(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def unpack_errand(text: str) -> Errand:
    """The other way."""
    fields: dict[str, Any] = json.loads(text)
    return Errand(**{**fields, "args": tuple(fields["args"]), "env": tuple(fields["env"])})
