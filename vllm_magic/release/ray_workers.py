"""Judging what nodes say of the workers that an engine had there, as Ray's actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.release import gpu_json
from vllm_magic.release.result import GpuMemory, Proof

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from vllm_magic.cluster.entities import Node
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.release.verifier import Verdict


class Judged(NamedTuple):
    """What became of the workers on all nodes together.

    Attributes:
        wrong: what is left or cannot be seen; "" for nothing.
        unseen: whether another look may find it otherwise.
        proof: the weakest of the nodes.
        vram: by the id of a node, each GPU that the driver said its workers held.
    """

    wrong: str
    unseen: bool
    proof: Proof
    vram: Mapping[str, tuple[GpuMemory, ...]]


def judge(
    workers: Mapping[str, Collection[int]],
    said: Mapping[str, Mapping[str, Any]],
    seen: Mapping[str, Snapshot],
    nodes: Mapping[str, Node],
) -> Judged:
    """Judge what was said; everything is by the id of a node.

    Args:
        workers: the pids that the actors had.
        said: after the end; nothing of a node that does not answer.
        seen: the GPUs when the server was ready, as far as they were looked at.
        nodes: those of the cluster.
    """
    wrong: list[str] = []
    unseen = False
    vram: dict[str, tuple[GpuMemory, ...]] = {}
    for node, pids in workers.items():
        where = nodes[node].where if node in nodes else f"the node {node}"
        words = said.get(node)
        if node not in nodes or not nodes[node].alive:
            wrong.append(f"{where} is gone from the cluster: what is left there cannot be seen")
        elif words is None:
            unseen = True
            wrong.append(f"{where} does not answer: what is left there cannot be seen")
        elif words["left"] or words["folders"]:
            unseen = True
            wrong.append(f"on {where} there is left: pid {', '.join(map(str, words['left']))}")
        elif node in seen:
            after = gpu_json.unpack(words["gpus"])
            vram[node] = tuple(_rows(seen[node], after, pids, where)) if _tells(seen[node], after) else ()
    # Pids of a driver outside the container that Ray's node is in are no use: it lists none of them before either.
    listed = all(vram.get(node) for node, pids in workers.items() if pids)
    known = any(workers.values()) and listed
    return Judged("; ".join(wrong), unseen, Proof.NVML_PROCESSES if known else Proof.PROCESSES, vram)


def weakest(own: Verdict, judged: Judged, node: str, others: int) -> Verdict:
    """The verdict on all nodes.

    Args:
        own: of the job's node on the server itself.
        judged: the workers.
        node: the id of that node; of its GPUs the verdict tells more.
        others: how many more there are.
    """
    rows = tuple(row for at, several in judged.vram.items() if at != node or not own.vram for row in several)
    if judged.wrong:
        return own._replace(verified=False, note=judged.wrong, unseen=judged.unseen)
    proof = min(own.proof, judged.proof, key=list(Proof).index)
    looked = f"; {others} more node{'s' * (others != 1)} looked at" if others else ""
    return own._replace(proof=proof, vram=own.vram + rows, note=f"{own.note}{looked}")


def _tells(before: Snapshot, after: Snapshot) -> bool:
    """Whether the driver lists the processes of all GPUs that it had, both times."""
    now = [after.gpu(gpu.uuid) for gpu in before.gpus]
    return all(gpu is not None and gpu.processes is not None for gpu in (*before.gpus, *now))


def _rows(before: Snapshot, after: Snapshot, pids: Collection[int], where: str) -> Iterator[GpuMemory]:
    """The GPUs on which the driver listed these processes."""
    for gpu in before.gpus:
        now = after.gpu(gpu.uuid)
        if now is not None and any(process.pid in pids for process in gpu.processes or ()):
            name = f"{gpu.name} on {where}"
            yield GpuMemory(gpu.index, gpu.uuid, name, None, gpu.used, now.used, gpu.held_by(pids))
