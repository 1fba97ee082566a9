"""What the head of a Ray cluster knows of: jobs, nodes and actors (Ray 2.60)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobStatus(str, Enum):
    """Ray's words for it (ray/dashboard/modules/job/common.py)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more, as far as Ray knows."""
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


@dataclass(frozen=True)
class Job:
    """A job as the head knows it.

    Attributes:
        id: its submission id.
        status: what became of it.
        message: Ray's explanation, in a sentence or more.
        node: the id of the node on which its entrypoint runs, or ran; None before that.
        ray_job: Ray's own id, which its actors carry; None unless it has connected to the cluster.
        metadata: what it was submitted with.
    """

    id: str
    status: JobStatus
    message: str
    node: str | None
    ray_job: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """A node of the cluster. ``gpus`` are those that it has told Ray of."""

    id: str
    name: str
    ip: str
    alive: bool
    head: bool
    gpus: float

    @property
    def where(self) -> str:
        """It for a person."""
        return f"{self.name} ({self.ip})"


@dataclass(frozen=True)
class Actor:
    """An actor.

    Attributes:
        alive: whether it lives, as far as Ray knows.
        name: "" where it has none.
        namespace: in which it has that.
        node: the id of its node; "" before it has one.
        pid: of its process there; 0 before it has one.
        job: Ray's id of the job that made it.
        gpus: that it asks for; 0 where that was not asked.
    """

    alive: bool
    name: str
    namespace: str
    node: str
    pid: int
    job: str
    gpus: float


def job(fields: Mapping[str, Any]) -> Job:
    """A job as the API gives it."""
    return Job(
        id=str(fields.get("submission_id") or ""),
        status=JobStatus(fields["status"]),
        message=str(fields.get("message") or ""),
        node=fields.get("driver_node_id"),
        ray_job=fields.get("job_id"),
        metadata=fields.get("metadata") or {},
    )


def actor(fields: Mapping[str, Any]) -> Actor:
    """An actor as the API gives it."""
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
    """In a placement group they are asked for by two names, that of the group and that of its bundle."""
    counts = [count for name, count in asked.items() if name == "GPU" or name.startswith("GPU_group_")]
    return float(max(counts, default=0.0))


def node(fields: Mapping[str, Any]) -> Node:
    """A node as the API gives it."""
    return Node(
        id=str(fields["node_id"]),
        name=str(fields.get("node_name") or fields["node_ip"]),
        ip=str(fields["node_ip"]),
        alive=fields["state"] == "ALIVE",
        head=bool(fields.get("is_head_node")),
        gpus=float((fields.get("resources_total") or {}).get("GPU", 0)),
    )
