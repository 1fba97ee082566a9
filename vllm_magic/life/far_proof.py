"""How the end of a server on a Ray cluster is proved: by its node, by Ray, and by every node that it used."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from vllm_magic.cluster import ending, keys, package
from vllm_magic.cluster.rest import LOG_LINES, JobUnknownError, Ray
from vllm_magic.engine.failures import Failure
from vllm_magic.errors import ClusterError
from vllm_magic.gpu.devices import Snapshot
from vllm_magic.life.proof import Verdict
from vllm_magic.linux import processes
from vllm_magic.release import EndedProcess, GpuMemory, Proof

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from vllm_magic.cluster.order import Errand
    from vllm_magic.cluster.rest import Job, Node
    from vllm_magic.linux.processes import Identity

NOWHERE = Snapshot(0.0, (), None, "the GPUs are on a Ray cluster")
END_LIMIT = 120.0  # seconds for a job to end
LOOK_LIMIT = 60.0  # seconds for a look at the node of a job whose own process was killed
LOOK = 0.25
LAST_LINES = 10  # of a job's log, kept with a failure


class FarWitness:
    """Proves on the cluster that a job has left nothing. See `proof.Witness`; for one thread."""

    baseline = NOWHERE
    chosen: frozenset[str] = frozenset()

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self.failure: Failure | None = None

    def look_when_ready(self, _: Collection[Identity] = ()) -> None:
        """The node looks for itself."""

    def look_before_stop(self, _: Collection[Identity] = ()) -> None:
        """The node looks for itself."""

    def look_now(self) -> Snapshot:
        """There is nothing to see here."""
        return NOWHERE

    def prove(self, ended: Collection[Identity], leader: Identity | None = None) -> Verdict:
        """Wait for the job's end, and for what the node says of it; asks for that end where nobody has."""
        alive = sorted(one.pid for one in {*ended, *filter(None, [leader])} if processes.is_alive(one))
        if alive:
            return Verdict(Proof.NONE, False, (), f"still alive: pid {', '.join(map(str, alive))}")
        try:
            with contextlib.closing(Ray(self._errand.address)) as ray:
                return self._prove(ray)
        except JobUnknownError as error:
            return Verdict(
                Proof.NONE,
                False,
                (),
                f"{str(error).rstrip('.')} (its head was started anew?); what ran there ends itself {keys.LEASE:g} s after that",
            )
        except ClusterError as error:
            return Verdict(
                Proof.NONE,
                False,
                (),
                f"{str(error).rstrip('.')}; what runs there ends itself {keys.LEASE:g} s after it last heard of this kernel",
            )

    def _prove(self, ray: Ray) -> Verdict:
        job = ending.wait(ray, self._errand.job, END_LIMIT)
        ray.put(keys.order(job.id), b"")  # it held keys, and may not have been read
        if not job.status.over:
            return Verdict(
                Proof.NONE, False, (), f"the job {job.id} is still {job.status.value} on the cluster"
            )
        if job.node is None:  # it never ran anywhere
            self.failure = Failure(f"Ray has not started it: {job.message}", "See %vllm cluster", ())
            return Verdict(Proof.PROCESSES, True, (), "it had not got a node")
        node = next((one for one in ray.nodes() if one.id == job.node), None)
        where = f"{node.name} ({node.ip})" if node else "a node that is gone"
        if node is None or not node.alive:
            return Verdict(
                Proof.NONE, False, (), f"{where} is gone from the cluster: what is left there cannot be seen"
            )
        return self._judge(ray, job, node)

    def _judge(self, ray: Ray, job: Job, node: Node) -> Verdict:
        """Of a job that is over, and whose node can be asked."""
        where = f"{node.name} ({node.ip})"
        log = ray.tail(job.id, node.id)
        report = _said(log, keys.RELEASED)
        if refused := _said(log, keys.REFUSED):
            self.failure = Failure(f"{refused['cause'].rstrip('.')} (on {where})", refused["hint"], ())
        whole = len(log) < LOG_LINES  # of a longer one the beginning is not here
        if not report and whole and not _said(log, keys.PLACED):
            self.failure = self.failure or Failure(
                f"The job ended before it had started the server (on {where})",
                "Its log tells; what python3 on the nodes must have is in docs/cluster.md",
                tuple(line for line in log if line.strip())[-LAST_LINES:],
            )
            return Verdict(Proof.PROCESSES, True, (), f"nothing was started on {where}")
        verdict = unpack(report["release"], where) if report is not None else None
        workers = self._workers(ray, job)
        if left := ending.clear(ray, job):
            return Verdict(Proof.NONE, False, (), f"Ray still has {left}")
        looked = self._look_at(
            ray, {**workers, **({} if verdict else {node.id: workers.get(node.id, set())})}
        )
        if looked:
            return (verdict or _NOTHING_SAID)._replace(verified=False, note=looked)
        if verdict is None:
            return Verdict(Proof.PROCESSES, True, (), f"on {where}, whose own process was killed")
        others = len(set(workers) - {node.id})
        if others:  # of those only the processes were looked at
            weaker = min(verdict.proof, Proof.PROCESSES, key=list(Proof).index)
            return verdict._replace(proof=weaker, note=f"{verdict.note}; {others} more nodes looked at")
        return verdict

    @staticmethod
    def _workers(ray: Ray, job: Job) -> dict[str, set[int]]:
        """The pids that its actors had on each node, by the node's id; none where its engine was not spread."""
        found: dict[str, set[int]] = {}
        for actor in ray.actors(job.ray_job) if job.ray_job else ():
            if actor.pid and actor.node:
                found.setdefault(actor.node, set()).add(actor.pid)
        return found

    def _look_at(self, ray: Ray, nodes: Mapping[str, Collection[int]]) -> str:
        """Have nodes say what is left of the job on them, all at once; "" for nothing.

        On the job's own node its guards may still be releasing the server, where the job's process was killed.
        """
        looks = {}
        for number, (node, pids) in enumerate(nodes.items()):
            looks[node] = look = f"{self._errand.job}-look-{number}"
            ray.put(package.name(look), package.packed())
            ray.submit(
                look,
                f"exec python3 -m vllm_magic.on_node --look {self._errand.job} {' '.join(map(str, pids))}",
                entrypoint_label_selector={"ray.io/node-id": node},
                runtime_env={"working_dir": f"{keys.SCHEME}{package.name(look)}"},
            )
        pause, deadline = threading.Event(), time.monotonic() + LOOK_LIMIT
        while time.monotonic() < deadline and not all(ray.job(look).status.over for look in looks.values()):
            pause.wait(LOOK)
        return "; ".join(filter(None, (self._looked(ray, node, look) for node, look in looks.items())))

    @staticmethod
    def _looked(ray: Ray, node: str, look: str) -> str:
        where = f"{(found := ray.node(node)).name} ({found.ip})"
        if not ray.job(look).status.over:
            ray.stop(look)
            return f"{where} does not answer: what is left there cannot be seen"
        said = _said(ray.tail(look, node), keys.LOOKED)
        if said is None:
            return f"{where} does not say what is left there"
        if said["left"] or said["folders"]:
            return f"on {where} there is left: pid {', '.join(map(str, said['left']))}"
        return ""


_NOTHING_SAID = Verdict(Proof.NONE, False, (), "")


def unpack(release: Mapping[str, Any], where: str) -> Verdict:
    """What a node says of a release, as the verdict of it."""
    note = f"on {where}" + (f"; {release['note']}" if release["note"] else "")
    return Verdict(
        Proof(release["proof"]),
        bool(release["verified"]),
        tuple(GpuMemory(**one) for one in release["vram"]),
        note,
        tuple(EndedProcess(**one) for one in release["ended"]),
    )


def _said(log: Sequence[str], what: str) -> Mapping[str, Any] | None:
    """The last of a job's own lines that says this."""
    found = [said for line in log if (said := keys.said(line)) and said["said"] == what]
    return found[-1] if found else None
