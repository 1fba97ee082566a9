"""Run a helper job on each node of a server: it needs no GPU, and reports the GPUs, or the leftovers of the server's job."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any

from vllm_magic.cluster import package, teardown, wire
from vllm_magic.cluster.rest import JobUnknownError
from vllm_magic.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vllm_magic.cluster.rest import Ray

HELPER_LIMIT = 60.0  # seconds for all helper jobs together
POLL_INTERVAL = 0.25  # seconds between requests for the state of the helper jobs


def ask_nodes(
    ray: Ray, job: str, option: str, nodes: Mapping[str, Collection[int]], helper_jobs: list[str]
) -> dict[str, Mapping[str, Any]]:
    """Ask all nodes at the same time, and wait up to `HELPER_LIMIT` seconds for the answers.

    Args:
        ray: the cluster.
        job: the submission id of the job in question.
        option: the option of `on_node`: ``--left`` or ``--gpus``.
        nodes: for the id of each node, the pids that Ray's actors of the job had there.
        helper_jobs: the list to which the ids of the helper jobs are added, for `teardown.remove_records`.

    Returns:
        For the id of each node, its answer. A node that does not answer is missing.

    Raises:
        ClusterError: the cluster refuses a helper job, or cannot be reached.
    """
    helpers = {}
    for node, pids in nodes.items():
        helpers[node] = helper = f"{job}{option[1:]}-{secrets.token_hex(3)}"
        ray.put(package.name(helper), package.packed())
        command = shlex.join(["python3", "-m", "vllm_magic.on_node", option, job, *map(str, sorted(pids))])
        ray.submit(
            helper,
            f"exec {command}",
            entrypoint_label_selector={"ray.io/node-id": node},
            runtime_env={"working_dir": f"{wire.SCHEME}{package.name(helper)}"},
        )
        helper_jobs.append(helper)
    pause, deadline = threading.Event(), time.monotonic() + HELPER_LIMIT
    while time.monotonic() < deadline and not all(_is_over(ray, helper) for helper in helpers.values()):
        pause.wait(POLL_INTERVAL)
    answers = {}
    for node, helper in helpers.items():
        if not _is_over(ray, helper):
            with contextlib.suppress(JobUnknownError):
                teardown.ask(ray, helper)
            continue
        with contextlib.suppress(ClusterError):  # the node has just left the cluster
            if answer := wire.last_line(ray.tail(helper, node), wire.REPORTED):
                answers[node] = answer
    return answers


def _is_over(ray: Ray, helper: str) -> bool:
    """Whether a helper job has ended. A job that the head has forgotten counts as ended: its log cannot be read any more."""
    try:
        return ray.job(helper).status.over
    except JobUnknownError:
        return True
