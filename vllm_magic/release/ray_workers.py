"""Evaluate the nodes' reports about the workers of an engine, which are actors of Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.release import gpu_json
from vllm_magic.release.result import GpuMemory, Proof

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from vllm_magic.cluster.entities import Node
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.release.verifier import Verdict


class RayWorkersResult(NamedTuple):
    """The result for the workers on all nodes together.

    Attributes:
        wrong: what is left, or cannot be seen; "" if all workers have ended.
        may_recheck: whether another attempt may give a better result.
        proof: the weakest proof of all nodes.
        vram: for the id of each node, the GPUs on which the driver listed its workers.
    """

    wrong: str
    may_recheck: bool
    proof: Proof
    vram: Mapping[str, tuple[GpuMemory, ...]]


def evaluate(
    workers: Mapping[str, Collection[int]],
    reports: Mapping[str, Mapping[str, Any]],
    ready_gpus: Mapping[str, Snapshot],
    nodes: Mapping[str, Node],
) -> RayWorkersResult:
    """Evaluate the reports of the nodes. The keys of all arguments are the ids of nodes.

    Args:
        workers: the pids that the actors had on each node.
        reports: the report of each node after the end; a node that does not answer is missing.
        ready_gpus: the GPUs of each node when the server was ready; a node that was not asked is missing.
        nodes: the nodes of the cluster.
    """
    wrong: list[str] = []
    may_recheck = False
    vram: dict[str, tuple[GpuMemory, ...]] = {}
    for node, pids in workers.items():
        where = nodes[node].where if node in nodes else f"the node {node}"
        answer = reports.get(node)
        if node not in nodes or not nodes[node].alive:
            wrong.append(f"{where} is gone from the cluster: what is left there cannot be seen")
        elif answer is None:
            may_recheck = True
            wrong.append(f"{where} does not answer: what is left there cannot be seen")
        elif answer["left"] or answer["folders"]:
            may_recheck = True
            pids_left = f"pid {', '.join(map(str, answer['left']))}"
            wrong.append(
                f"left on {where}: {pids_left if answer['left'] else 'the private folder of the server'}"
            )
        elif node in ready_gpus:
            after = gpu_json.unpack(answer["gpus"])
            vram[node] = (
                tuple(_rows(ready_gpus[node], after, pids, where))
                if _lists_processes(ready_gpus[node], after)
                else ()
            )
    # If Ray's node is in a container, the driver may list other pids than Ray, and did not list the workers before either.
    listed = all(vram.get(node) for node, pids in workers.items() if pids)
    known = any(workers.values()) and listed
    return RayWorkersResult(
        "; ".join(wrong), may_recheck, Proof.NVML_PROCESSES if known else Proof.PROCESSES, vram
    )


def weakest(own: Verdict, result: RayWorkersResult, node: str, others: int) -> Verdict:
    """Return the verdict for all nodes together.

    Args:
        own: the verdict of the job's node on the server itself.
        result: the result for the workers.
        node: the id of the job's node; its GPUs are taken from `own`, which has more details.
        others: the number of the other nodes.
    """
    rows = tuple(row for at, several in result.vram.items() if at != node or not own.vram for row in several)
    if result.wrong:
        return own._replace(verified=False, note=result.wrong, may_recheck=result.may_recheck)
    proof = min(own.proof, result.proof, key=list(Proof).index)
    checked = f"; {others} more node{'s' * (others != 1)} checked" if others else ""
    return own._replace(proof=proof, vram=own.vram + rows, note=f"{own.note}{checked}")


def _lists_processes(before: Snapshot, after: Snapshot) -> bool:
    """Whether the driver listed the processes of all these GPUs both times."""
    now = [after.same(gpu, before) for gpu in before.gpus]
    return all(gpu is not None and gpu.processes is not None for gpu in (*before.gpus, *now))


def _rows(before: Snapshot, after: Snapshot, pids: Collection[int], where: str) -> Iterator[GpuMemory]:
    """Yield the memory of the GPUs on which the driver listed these processes."""
    for gpu in before.gpus:
        now = after.same(gpu, before)
        if now is not None and any(process.pid in pids for process in gpu.processes or ()):
            name = f"{gpu.name} on {where}"
            yield GpuMemory(gpu.index, gpu.uuid, name, None, gpu.used, now.used, gpu.held_by(pids))
