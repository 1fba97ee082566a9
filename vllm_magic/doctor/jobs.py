"""The jobs of servers on Ray clusters, where no process of the server lives on this machine any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.doctor.findings import Finding, Topic
from vllm_magic.errors import VllmMagicError

if TYPE_CHECKING:
    from vllm_magic.guard.record import Record


def orphaned_job(record: Record) -> Finding:
    """Return the finding about a job whose kernel, guards and agent are gone. This asks the cluster."""
    return Finding(
        Topic.ORPHAN,
        f"The kernel of the server {record.name} is gone, and {_state(record)}.",
        "vllm-magic reap",
    )


def _state(record: Record) -> str:
    at = f"its job {record.job} on {record.cluster}"
    try:
        from vllm_magic.cluster import wire
        from vllm_magic.cluster.entities import JobStatus
        from vllm_magic.cluster.rest import JobUnknownError, Ray
    except VllmMagicError as error:  # an environment variable has an invalid value
        return f"{at} cannot be seen: {str(error).rstrip('.')}"
    try:
        job = Ray(record.cluster).job(record.job)
    except JobUnknownError:
        return f"{record.cluster} does not know its job {record.job} any more"
    except VllmMagicError as error:
        return f"{at} cannot be seen: {str(error).rstrip('.')}"
    if job.status.over:
        return f"{at} has ended; its files are left"
    if job.status is JobStatus.PENDING:
        return f"{at} waits for room there; when it gets a node, it ends itself, since its kernel is gone"
    return f"{at} still runs: it ends itself {wire.LEASE:g} s after the last message of that kernel"
