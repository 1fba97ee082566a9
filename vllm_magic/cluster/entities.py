"""Jobs, nodes and actors, as the head of a Ray cluster describes them (Ray 2.60)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobStatus(str, Enum):
    """The status of a job, by Ray's names (ray/dashboard/modules/job/common.py)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def over(self) -> bool:
        """Whether nothing of the job runs any more, as far as Ray knows."""
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        id: the submission id.
        status: the status.
        message: Ray's explanation of the status, in a sentence or more.
        node: the id of the node on which the job's entrypoint runs, or ran; None before that.
        ray_job: Ray's own id of the job, which the job's actors have too; None unless the job has connected to the cluster.
        metadata: the metadata with which the job was submitted.
    """

    id: str
    status: JobStatus
    message: str
    node: str | None
    ray_job: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """A node of the cluster; ``gpus`` is the number of GPUs that the node has reported to Ray."""

    id: str
    name: str
    ip: str
    alive: bool
    head: bool
    gpus: float

    @property
    def where(self) -> str:
        """The name and the address of the node, for a message."""
        return f"{self.name} ({self.ip})"


@dataclass(frozen=True)
class Actor:
    """An actor.

    Attributes:
        alive: whether the actor lives, as far as Ray knows.
        name: the name; "" if the actor has none.
        namespace: the namespace of that name.
        node: the id of the actor's node; "" before the actor has a node.
        pid: the pid of the actor's process on that node; 0 before there is a process.
        job: Ray's id of the job that created the actor.
        gpus: the number of GPUs that the actor requests; 0 if the head was not asked for it.
    """

    alive: bool
    name: str
    namespace: str
    node: str
    pid: int
    job: str
    gpus: float


def job(fields: Mapping[str, Any]) -> Job:
    """Return the job that the API describes."""
    return Job(
        id=str(fields.get("submission_id") or ""),
        status=JobStatus(fields["status"]),
        message=str(fields.get("message") or ""),
        node=fields.get("driver_node_id"),
        ray_job=fields.get("job_id"),
        metadata=fields.get("metadata") or {},
    )


def actor(fields: Mapping[str, Any]) -> Actor:
    """Return the actor that the API describes."""
    return Actor(
        alive=fields.get("state") != "DEAD",
        name=str(fields.get("name") or ""),
        namespace=str(fields.get("ray_namespace") or ""),
        node=str(fields.get("node_id") or ""),
        pid=int(fields.get("pid") or 0),
        job=str(fields.get("job_id") or ""),
        gpus=_gpus(fields.get("required_resources") or {}),
    )


def _gpus(asked: Mapping[str, float]) -> float:
    """Return the number of GPUs that an actor requests.

    In a placement group Ray lists them twice, for the group and for its bundle.
    """
    counts = [count for name, count in asked.items() if name == "GPU" or name.startswith("GPU_group_")]
    return float(max(counts, default=0.0))


def node(fields: Mapping[str, Any]) -> Node:
    """Return the node that the API describes."""
    return Node(
        id=str(fields["node_id"]),
        name=str(fields.get("node_name") or fields["node_ip"]),
        ip=str(fields["node_ip"]),
        alive=fields["state"] == "ALIVE",
        head=bool(fields.get("is_head_node")),
        gpus=float((fields.get("resources_total") or {}).get("GPU", 0)),
    )
