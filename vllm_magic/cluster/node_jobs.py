"""Ask nodes what is left of a job there: run a helper job on each node, pinned to the node and without a GPU."""

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

LIMIT = 60.0  # seconds for all helper jobs together
LOOK = 0.25  # seconds between looks at the helper jobs


def at(
    ray: Ray, job: str, word: str, nodes: Mapping[str, Collection[int]], made: list[str]
) -> dict[str, Mapping[str, Any]]:
    """Ask all nodes at the same time, and wait up to `LIMIT` seconds for the answers.

    Args:
        ray: the cluster.
        job: the submission id of the job in question.
        word: the option of `on_node`: ``--look`` or ``--see``.
        nodes: for the id of each node, the pids that Ray's actors of the job had there.
        made: the list to which the ids of the helper jobs are added, for `teardown.remove_records`.

    Returns:
        For the id of each node, its answer. A node that does not answer is missing.

    Raises:
        ClusterError: the cluster refuses a helper job, or cannot be reached.
    """
    asked = {}
    for node, pids in nodes.items():
        asked[node] = look = f"{job}{word[1:]}-{secrets.token_hex(3)}"
        ray.put(package.name(look), package.packed())
        command = shlex.join(["python3", "-m", "vllm_magic.on_node", word, job, *map(str, sorted(pids))])
        ray.submit(
            look,
            f"exec {command}",
            entrypoint_label_selector={"ray.io/node-id": node},
            runtime_env={"working_dir": f"{wire.SCHEME}{package.name(look)}"},
        )
        made.append(look)
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    while time.monotonic() < deadline and not all(_is_over(ray, look) for look in asked.values()):
        pause.wait(LOOK)
    found = {}
    for node, look in asked.items():
        if not _is_over(ray, look):
            with contextlib.suppress(JobUnknownError):
                teardown.ask(ray, look)
            continue
        with contextlib.suppress(ClusterError):  # the node has just left the cluster
            if said := wire.last(ray.tail(look, node), wire.LOOKED):
                found[node] = said
    return found


def _is_over(ray: Ray, look: str) -> bool:
    """Whether a helper job has ended. A job that the head has forgotten counts as ended: its log cannot be read any more."""
    try:
        return ray.job(look).status.over
    except JobUnknownError:
        return True
