"""Having a job end, and waiting for that; also for one that has not got a node yet, which Ray itself cannot stop."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.cluster.entities import JobStatus
from vllm_magic.cluster.rest import JobUnknownError
from vllm_magic.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.cluster.entities import Job
    from vllm_magic.cluster.rest import Ray

LOOK = 0.25  # seconds between looks at a job that is ending
UNKNOWN = 5.0  # seconds for which the head does not know a job, until that is believed
BY_ITSELF = 3.0  # seconds for Ray to end what a job had, after it
RECORDED = 3.0  # seconds until what is over can be forgotten
MOST = 100  # small jobs of one kind for one job; one is the rule
CLEAR_LIMIT = 30.0  # seconds for that to be ended by a job of ours
# Ray answers that it stops a job which waits for room, and does so only once it has a node (2.60). What waits there is an
# actor with the job's name (ray/dashboard/modules/job/common.py); a job of its own can end that at once.
_END_WAITING = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
try:
    ray.kill(ray.get_actor("_ray_internal_job_actor_{job}", namespace="SUPERVISOR_ACTOR_RAY_NAMESPACE"))
except ValueError:
    pass
"""
# What a driver made "detached" outlives it (vllm#20860 and ray#64035 tell of leaks); no request to the head ends it. With a
# placement group go its actors.
_CLEAR = """
import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
for one in {groups!r}:
    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(one))))
for name, namespace in {actors!r}:
    try:
        ray.kill(ray.get_actor(name, namespace=namespace))
    except ValueError:
        pass
"""


def ask(ray: Ray, job: str) -> None:
    """Ask for the end, and return at once.

    Raises:
        ClusterError: the cluster refuses it, or cannot be reached.
    """
    found = ray.job(job)
    if found.status.over:
        return
    ray.stop(job)
    if found.status is JobStatus.PENDING:
        end_waiting(ray, job)


def end_waiting(ray: Ray, job: str) -> None:
    """End a job that waits for room; nothing where it does not.

    Raises:
        ClusterError: the cluster refuses it, or cannot be reached.
    """
    _run(ray, f"{job}-end", _END_WAITING.format(job=job))


def clear(ray: Ray, job: Job) -> str:
    """End what Ray still has of a job that is over: its actors and placement groups, and nobody else's.

    Returns:
        What that did not end within `CLEAR_LIMIT`; "" for nothing.

    Raises:
        ClusterError: the cluster refuses it, or cannot be reached.
    """
    if job.ray_job is None:
        return ""
    pause, began, asked = threading.Event(), time.monotonic(), False
    while True:
        actors = [one for one in ray.actors(job.ray_job) if one.alive]
        groups = ray.placement_groups(job.ray_job)
        if not actors and not groups:
            return ""
        now = time.monotonic()
        if now >= began + CLEAR_LIMIT:
            return f"{len(actors)} actors and {len(groups)} placement groups of {job.id}"
        if now >= began + BY_ITSELF and not asked:
            asked = True
            named = [(one.name, one.namespace) for one in actors if one.name]
            _run(ray, f"{job.id}-clear", _CLEAR.format(groups=groups, actors=named))
        pause.wait(LOOK)


def _run(ray: Ray, name: str, program: str) -> None:
    """Run it as a job, with the number behind those that ran before under this name; another one may do the same now."""
    while True:
        known = _known(ray, name)
        try:
            return ray.submit(f"{name}-{len(known)}", f"exec python3 -c {shlex.quote(program)}")
        except ClusterError:
            if _known(ray, name) == known:
                raise


def _known(ray: Ray, name: str) -> list[str]:
    """The small jobs of this name that the head knows; no more than `MOST`, since it may say yes to any."""
    found: list[str] = []
    with contextlib.suppress(JobUnknownError):
        while len(found) < MOST:
            found.append(ray.job(f"{name}-{len(found)}").id)
    return found


def tidy(ray: Ray, job: str, looks: Iterable[str] = ()) -> None:
    """Have the head forget the small jobs that were made for this one, once it lets go of them, after `RECORDED` seconds.

    The job itself stays on record.

    Args:
        ray: the cluster.
        job: the submission id.
        looks: those of `glance`.

    Raises:
        ClusterError: the cluster refuses it, or cannot be reached.
    """
    names = [*looks, *_known(ray, f"{job}-end"), *_known(ray, f"{job}-clear")]
    if not names:
        return
    # Ray looks once a second at a job that has ended; one that was forgotten by then it takes for one that has failed.
    threading.Event().wait(RECORDED)
    for name in names:
        if ray.job(name).status.over:
            ray.forget(name)


def wait(ray: Ray, job: str, limit: float, silence: float) -> Job:
    """Ask for the end, again where it has only now got a node, and wait for it.

    Args:
        ray: the cluster.
        job: the submission id.
        limit: seconds.
        silence: seconds for which the cluster may not answer, and no longer than the limit.

    Returns:
        The job as it is then; not over where the limit was too short.

    Raises:
        JobUnknownError: the cluster does not know it.
        ClusterError: the cluster refuses it, or is silent for too long.
    """
    pause, heard = threading.Event(), time.monotonic()
    deadline = heard + limit
    asked: JobStatus | None = None
    unknown_since: float | None = None
    while True:
        try:
            found = ray.job(job)
            heard, unknown_since = time.monotonic(), None
            if found.status.over:
                return found
            if found.status is not asked:
                ask(ray, job)
                asked = found.status
        except JobUnknownError:  # once may be a proxy's answer
            unknown_since = unknown_since or time.monotonic()
            if time.monotonic() >= unknown_since + UNKNOWN:
                raise
        except ClusterError:
            if time.monotonic() >= min(deadline, heard + silence):
                raise
        else:
            if time.monotonic() >= deadline:
                return found
        pause.wait(LOOK)
