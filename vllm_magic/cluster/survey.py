"""A look at a whole cluster: its nodes, and who runs there or waits for room."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.cluster import keys
from vllm_magic.cluster.entities import JobStatus
from vllm_magic.cluster.rest import Ray
from vllm_magic.view import View

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.cluster.entities import Job, Node

COLUMNS = ("node", "address", "GPUs", "job", "server", "state")


@dataclass(frozen=True)
class Survey:
    """What was seen.

    Attributes:
        address: of the cluster.
        version: of its Ray.
        nodes: those that live.
        jobs: those that are not over.
    """

    address: str
    version: str
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]


def survey(address: str) -> Survey:
    """Look.

    Raises:
        ClusterError: it does not answer, or refuses to.
        InvalidOption: the address is none.
    """
    with contextlib.closing(Ray(address)) as ray:
        version = ray.version()
        nodes = tuple(node for node in ray.nodes() if node.alive)
        return Survey(ray.address, version, nodes, tuple(job for job in ray.jobs() if not job.status.over))


def view(seen: Survey, ours: Collection[str] = ()) -> View:
    """A table of it.

    Args:
        seen: the look.
        ours: the submission ids of this kernel's servers.
    """
    rows: list[tuple[str, ...]] = []
    for node in sorted(seen.nodes, key=lambda one: (not one.head, one.name)):
        here = [_job(job, ours) for job in seen.jobs if job.node == node.id]
        about = (node.name + (" (head)" if node.head else ""), node.ip, f"{node.gpus:g}")
        rows += [(*(about if first else ("", "", "")), *job) for first, job in _with_first(here)]
    rows += [("-", "", "", *_job(job, ours)) for job in seen.jobs if job.status is JobStatus.PENDING]
    gpus = sum(node.gpus for node in seen.nodes)
    count = len(seen.nodes)
    headline = f"{seen.address}, Ray {seen.version}: {count} node{'s' * (count != 1)}, {gpus:g} GPUs"
    return View(headline=headline, columns=COLUMNS, rows=tuple(rows))


def _with_first(jobs: list[tuple[str, ...]]) -> list[tuple[bool, tuple[str, ...]]]:
    return [(number == 0, job) for number, job in enumerate(jobs or [("", "", "")])]


def _job(job: Job, ours: Collection[str]) -> tuple[str, ...]:
    name = job.metadata.get(keys.METADATA, "")
    mine = " (of this kernel)" if job.id in ours else ""
    state = "waits for room" if job.status is JobStatus.PENDING else "runs"
    return job.id, f"{name}{mine}", state
