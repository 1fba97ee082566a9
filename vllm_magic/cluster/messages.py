"""Messages for a server on a cluster, packed as JSON: to the agent on this machine, and to the job on its node."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ServeRequest:
    """The server that a job starts on its node: the agent sends this to the job.

    Attributes:
        model: a Hugging Face name, or a folder on the node.
        args: flags of ``vllm serve``.
        executable: the path of ``vllm`` on the node; None to search for it there.
        env: environment variables that are added to the node's environment; one of them is the key.
        host: the address of the node, on which the server listens.
        force: whether to start the server even if the GPUs have too little free memory, or vLLM does not have a flag.
        lease: the seconds without a renewal after which the job ends itself.
    """

    model: str
    args: tuple[str, ...]
    executable: str | None
    env: dict[str, str]
    host: str
    force: bool
    lease: float

    def packed(self) -> bytes:
        """Return the request as JSON."""
        return json.dumps(asdict(self)).encode()


def unpack_request(data: bytes) -> ServeRequest:
    """Return the request from what `ServeRequest.packed` returned."""
    fields: dict[str, Any] = json.loads(data)
    return ServeRequest(**{**fields, "args": tuple(fields["args"])})


@dataclass(frozen=True)
class JobSpec:
    """The job that an agent submits; the agent reads this from its environment.

    Attributes:
        address: the address of the cluster.
        job: the submission id of the job.
        name: the name of the server.
        model: as in `ServeRequest`.
        args: as in `ServeRequest`.
        executable: as in `ServeRequest`.
        env: the names of the variables that the server gets from the agent's environment.
        port: the port of this machine's loopback interface that the agent forwards to the server.
        gpus: the number of GPUs that the job needs; 0 if vLLM requests the GPUs itself, by a placement group.
        force: as in `ServeRequest`.
        vllm: the version of vLLM on this machine; "" if there is none, or it is not known.
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
        """Return the job spec as JSON."""
        return json.dumps(asdict(self))


def unpack_job_spec(text: str) -> JobSpec:
    """Return the job spec from what `JobSpec.packed` returned."""
    fields: dict[str, Any] = json.loads(text)
    return JobSpec(**{**fields, "args": tuple(fields["args"]), "env": tuple(fields["env"])})
