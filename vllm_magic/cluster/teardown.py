"""Stopping a Ray job and waiting for its end, also for a job without a node yet, which Ray itself cannot stop."""

from __future__ import annotations

import contextlib
import re
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

POLL_INTERVAL = 0.25  # seconds between requests for the state of a job that is ending
UNKNOWN_LIMIT = 5.0  # seconds; a job that the head does not know for that long is gone
OWN_CLEAR_LIMIT = 3.0  # seconds for Ray itself to end the actors and placement groups of a job
RECORD_DELAY = 5.0  # seconds from the end of a job until its record can be removed, also from a busy head
MOST_HELPERS = 100  # helper jobs of one kind for one job; usually there is one
REMOVAL_LIMIT = 20.0  # seconds to remove the records of all helper jobs of a job; the other records stay
CLEAR_LIMIT = 30.0  # seconds for the actors and placement groups of a job to end
# Ray accepts a request to stop a job that waits for room, but stops it only when the job has a node (2.60). An actor with the
# job's name waits (ray/dashboard/modules/job/common.py); another job can end that actor at once.
_END_WAITING = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
try:
    ray.kill(ray.get_actor("_ray_internal_job_actor_{job}", namespace="SUPERVISOR_ACTOR_RAY_NAMESPACE"))
except ValueError:
    pass
"""
# Actors and placement groups that a driver created as "detached" outlive the driver (vllm#20860 and ray#64035 report leaks),
# and no request to the head ends them. Removing a placement group ends its actors too.
_CLEAR = """
import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
for group in {groups!r}:
    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
for name, namespace in {actors!r}:
    try:
        ray.kill(ray.get_actor(name, namespace=namespace))
    except ValueError:
        pass
"""


def ask(ray: Ray, job: str) -> None:
    """Ask the cluster to stop a job, and return at once.

    Raises:
        ClusterError: the cluster refuses, or cannot be reached.
    """
    status = ray.job(job).status
    if status.over:
        return
    ray.stop(job)
    if status is JobStatus.PENDING:
        end_waiting(ray, job)


def end_waiting(ray: Ray, job: str) -> None:
    """End a job that waits for room; do nothing to any other job.

    Raises:
        ClusterError: the cluster refuses, or cannot be reached.
    """
    _run(ray, f"{job}-end", _END_WAITING.format(job=job))


def clear(ray: Ray, job: Job) -> str:
    """End the actors and placement groups that a finished job left in Ray, and those of no other job.

    Returns:
        Text about the actors and groups that are left after `CLEAR_LIMIT` seconds; "" for none.

    Raises:
        ClusterError: the cluster refuses, or cannot be reached.
    """
    if job.ray_job is None:
        return ""
    pause, began, asked = threading.Event(), time.monotonic(), False
    while True:
        actors = [actor for actor in ray.actors(job.ray_job) if actor.alive]
        groups = ray.placement_groups(job.ray_job)
        if not actors and not groups:
            return ""
        now = time.monotonic()
        if now >= began + CLEAR_LIMIT:
            return f"{len(actors)} actors and {len(groups)} placement groups of {job.id}"
        if now >= began + OWN_CLEAR_LIMIT and not asked:
            asked = True
            named = [(actor.name, actor.namespace) for actor in actors if actor.name]
            _run(ray, f"{job.id}-clear", _CLEAR.format(groups=groups, actors=named))
        pause.wait(POLL_INTERVAL)


def _run(ray: Ray, name: str, program: str) -> None:
    """Run a program as a helper job, under the name and the next free number; another kernel may take that number first."""
    while True:
        known = _known(ray, name)
        try:
            return ray.submit(f"{name}-{len(known)}", f"exec python3 -c {shlex.quote(program)}")
        except ClusterError:
            if _known(ray, name) == known:
                raise


def _known(ray: Ray, name: str) -> list[str]:
    """Return the helper jobs of this name that the head knows; at most `MOST_HELPERS`: a faulty head may claim to know every job."""
    found: list[str] = []
    with contextlib.suppress(JobUnknownError):
        while len(found) < MOST_HELPERS:
            found.append(ray.job(f"{name}-{len(found)}").id)
    return found


def remove_records(ray: Ray, job: str, helper_jobs: Iterable[str] = ()) -> None:
    """Remove the records of a job's helper jobs from the head, after a wait of `RECORD_DELAY` seconds.

    The record of the job itself stays.

    Args:
        ray: the cluster.
        job: the submission id.
        helper_jobs: the submission ids of the jobs that `node_jobs.ask_nodes` ran.

    Raises:
        ClusterError: the cluster refuses one of them, or cannot be reached. The others are removed, as many as
            `REMOVAL_LIMIT` allows.
    """
    helper = re.compile(rf"{re.escape(job)}-(?:end|clear)-\d+")
    helpers = [other.id for other in ray.jobs() if helper.fullmatch(other.id)]
    names = [*helper_jobs, *helpers[: 2 * MOST_HELPERS]]
    if not names:
        return
    # Ray checks once a second whether a job has ended. If the record is gone by then, Ray reports the job as failed.
    threading.Event().wait(RECORD_DELAY)
    deadline = time.monotonic() + REMOVAL_LIMIT
    refused: ClusterError | None = None
    for name in names:
        try:
            if ray.job(name).status.over:
                ray.forget(name)
        except JobUnknownError:  # another kernel, or Ray itself, was faster
            pass
        except ClusterError as error:
            refused = refused or error
        if time.monotonic() >= deadline:
            break
    if refused:
        raise refused


def wait(ray: Ray, job: str, limit: float, silence: float) -> Job:
    """Ask the cluster to stop a job, ask again if the job gets its node after that, and wait for its end.

    Args:
        ray: the cluster.
        job: the submission id.
        limit: seconds to wait for the end.
        silence: seconds for which the cluster may fail to answer; a longer time than ``limit`` has no effect.

    Returns:
        The job. It is not over if the limit was too short.

    Raises:
        JobUnknownError: the cluster does not know the job.
        ClusterError: the cluster refuses, or does not answer for too long.
    """
    pause, last_answer = threading.Event(), time.monotonic()
    deadline = last_answer + limit
    asked: JobStatus | None = None
    unknown_since: float | None = None
    while True:
        try:
            current = ray.job(job)
            last_answer, unknown_since = time.monotonic(), None
            if current.status.over:
                return current
            if current.status is not asked:
                ask(ray, job)
                asked = current.status
        except JobUnknownError:  # a single such answer may come from a proxy
            unknown_since = unknown_since or time.monotonic()
            if time.monotonic() >= unknown_since + UNKNOWN_LIMIT:
                raise
        except ClusterError:
            if time.monotonic() >= min(deadline, last_answer + silence):
                raise
        else:
            if time.monotonic() >= deadline:
                return current
        pause.wait(POLL_INTERVAL)
