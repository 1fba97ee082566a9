"""The state of a whole cluster: its nodes, the jobs that run on them, and the jobs that wait for room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.cluster import wire
from vllm_magic.cluster.entities import JobStatus
from vllm_magic.cluster.rest import Ray
from vllm_magic.view import View

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.cluster.entities import Actor, Job, Node

COLUMNS = ("node", "address", "GPUs", "job", "server", "holds", "state")
# The name of the actor that runs a job begins with this (ray/dashboard/modules/job/common.py).
SUPERVISOR = "_ray_internal_job_actor_"


@dataclass(frozen=True)
class Survey:
    """The state of a cluster at one moment.

    Attributes:
        address: the address of the cluster.
        version: the version of Ray on the cluster.
        nodes: the living nodes.
        jobs: the jobs that are not over.
        actors: the living actors.
    """

    address: str
    version: str
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    actors: tuple[Actor, ...]

    def holders(self, node: Node) -> dict[str, float]:
        """Return the number of GPUs that each job requests on a node.

        The keys are submission ids; for a job without a submission id, the key is made of Ray's own id.
        """
        submitted = {job.ray_job: job.id for job in self.jobs if job.ray_job}
        held = {job.id: 0.0 for job in self.jobs if job.node == node.id}
        for actor in self.actors:
            if actor.node == node.id and actor.gpus:
                own = actor.name.startswith(SUPERVISOR)
                job = (
                    actor.name.removeprefix(SUPERVISOR)
                    if own
                    else submitted.get(actor.job, f"job {actor.job}")
                )
                held[job] = held.get(job, 0.0) + actor.gpus
        return held


def survey(address: str) -> Survey:
    """Ask the head of a cluster for its state.

    Raises:
        ClusterError: the cluster does not answer, or refuses.
        InvalidOption: the address is not valid.
    """
    ray = Ray(address)
    return Survey(
        address=ray.address,
        version=ray.version(),
        nodes=tuple(node for node in ray.nodes() if node.alive),
        jobs=tuple(job for job in ray.jobs() if not job.status.over),
        actors=tuple(ray.living_actors()),
    )


def view(state: Survey, ours: Collection[str] = ()) -> View:
    """Return the state of a cluster as a table.

    Args:
        state: the state of the cluster.
        ours: the submission ids of this kernel's servers.
    """
    names = {job.id: _named(job, ours) for job in state.jobs}
    own = {job.id: job.node for job in state.jobs}
    rows: list[tuple[str, ...]] = []
    for node in sorted(state.nodes, key=lambda node: (not node.head, node.name)):
        about = (node.name + (" (head)" if node.head else ""), node.ip, f"{node.gpus:g}")
        here = [
            (job, names.get(job, ""), _gpus(held), "runs" if own.get(job) == node.id else "has workers here")
            for job, held in state.holders(node).items()
        ]
        for number, row in enumerate(here or [("", "", "", "")]):
            rows.append((*(("", "", "") if number else about), *row))
    rows += [
        ("-", "", "", job.id, names[job.id], "", "waits for room")
        for job in state.jobs
        if job.status is JobStatus.PENDING
    ]
    gpus = sum(node.gpus for node in state.nodes)
    count = len(state.nodes)
    headline = f"{state.address}, Ray {state.version}: {count} node{'s' * (count != 1)}, {_gpus(gpus)}"
    return View(headline=headline, columns=COLUMNS, rows=tuple(rows))


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'s' * (count != 1)}"


def _named(job: Job, ours: Collection[str]) -> str:
    """Return the name of the job's server; "" if the job is no server of vllm_magic."""
    return job.metadata.get(wire.METADATA, "") + " (of this kernel)" * (job.id in ours)
