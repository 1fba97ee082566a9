"""Having nodes say what they see of a job, each by a small job of ours that is pinned to it and asks for no GPU."""

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

LIMIT = 60.0  # seconds for all of them
LOOK = 0.25


def at(
    ray: Ray, job: str, word: str, nodes: Mapping[str, Collection[int]], made: list[str]
) -> dict[str, Mapping[str, Any]]:
    """Ask all nodes at once, as long as `LIMIT`.

    Args:
        ray: the cluster.
        job: the submission id of the job that it is about.
        word: ``--look`` or ``--see`` of `on_node`.
        nodes: by the id of each node the pids that Ray's actors of the job had there.
        made: gets the ids of the small jobs, for `ending.tidy`.

    Returns:
        What was said, by the node's id; nothing of one that does not answer.

    Raises:
        ClusterError: the cluster refuses it, or cannot be reached.
    """
    asked = {}
    for node, pids in nodes.items():
        asked[node] = look = f"{job}{word[1:]}-{secrets.token_hex(3)}"
        ray.put(package.name(look), package.packed())
        words = shlex.join(["python3", "-m", "vllm_magic.on_node", word, job, *map(str, sorted(pids))])
        ray.submit(
            look,
            f"exec {words}",
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
        with contextlib.suppress(ClusterError):  # its node has just gone
            if said := wire.last(ray.tail(look, node), wire.LOOKED):
                found[node] = said
    return found


def _is_over(ray: Ray, look: str) -> bool:
    """Whether a small job has ended. One that the head does not know any more says nothing more either."""
    try:
        return ray.job(look).status.over
    except JobUnknownError:
        return True
