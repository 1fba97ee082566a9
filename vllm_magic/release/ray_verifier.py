"""Prove the release of a server on a Ray cluster, by reports of Ray, of the job's node, and of every node of the engine."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from vllm_magic.cluster import node_jobs, teardown, wire
from vllm_magic.cluster.rest import LOG_LINES, JobUnknownError, Ray
from vllm_magic.engine.failures.explanations import Failure
from vllm_magic.errors import ClusterError, InvalidOption
from vllm_magic.gpu.devices import Snapshot
from vllm_magic.linux import processes
from vllm_magic.release import gpu_json
from vllm_magic.release.ray_workers import evaluate, weakest
from vllm_magic.release.result import EndedProcess, GpuMemory, Proof
from vllm_magic.release.verifier import Verdict, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from vllm_magic.cluster.entities import Job, Node
    from vllm_magic.linux.processes import Identity

NOWHERE = Snapshot(0.0, (), None, "the GPUs are on a Ray cluster")
END_LIMIT = 120.0  # seconds for a job to end
SECOND_SILENCE = 5.0  # seconds for a cluster to answer, if it did not answer the first time
READ_LIMIT = 20.0  # seconds to wait for helper jobs that read the nodes' GPUs
LAST_LINES = 10  # lines of a job's log that are kept with a failure


class RayVerifier(Verifier):
    """Proves that a job has left nothing on its cluster. For one thread.

    Args:
        address: the address of the cluster.
        job: the submission id of the job.
        spread: whether the engine may have workers on several nodes; then these nodes report what the workers hold.
        silence: the seconds for which the cluster may fail to answer before the release counts as not proved.
        waits_for_cleanup: whether `verify` also waits until the records of the helper jobs are removed. This is for a process
            that ends after the call.
    """

    baseline = NOWHERE
    chosen: frozenset[str] = frozenset()

    def __init__(
        self,
        address: str,
        job: str,
        *,
        spread: bool = False,
        silence: float = END_LIMIT,
        waits_for_cleanup: bool = False,
    ) -> None:
        self._address = address
        self._job = job
        self._spread = spread
        self._silence = silence
        self._waits_for_cleanup = waits_for_cleanup
        self.known: set[Identity] = set()
        self._is_repeated = False
        self._reading: threading.Thread | None = None
        self._ready_gpus: dict[str, Snapshot] = {}  # each node's GPUs when the server was ready, by id
        self._helper_jobs: list[str] = []  # the submission ids of the helper jobs
        self.failure: Failure | None = None

    def observe_ready(self, _: Collection[Identity] = ()) -> None:
        """Ask the nodes of the engine's workers for their GPUs, in a thread, since that takes seconds.

        The job remembers the server's own processes and memory itself.
        """
        if self._spread:
            self._reading = _in_the_background(self._read_gpus, self._job)

    def _read_gpus(self) -> None:
        with contextlib.suppress(ClusterError):
            ray = Ray(self._address)
            workers = _workers(ray, ray.job(self._job))
            answers = node_jobs.ask_nodes(ray, self._job, "--gpus", workers, self._helper_jobs)
            self._ready_gpus = {node: gpu_json.unpack(answer["gpus"]) for node, answer in answers.items()}

    def observe_before_stop(self, _: Collection[Identity] = (), *, in_a_hurry: bool = True) -> None:
        """Do nothing: the job remembers the processes and the memory itself."""

    def packed(self) -> None:
        """Return None: everything that another verification needs is on the cluster."""

    def observe_now(self) -> Snapshot:
        """Return no GPU: the server uses no GPU of this machine."""
        return NOWHERE

    def verify(self, ended: Collection[Identity], leader: Identity | None = None) -> Verdict:
        """Wait for the end of the job and the report of its node. Stop the job if it still runs.

        Args:
            ended: the processes of this machine that were ended: the agent.
            leader: the agent, or None.
        """
        alive = sorted(
            identity.pid for identity in {*ended, *filter(None, [leader])} if processes.is_alive(identity)
        )
        if alive:
            return _not_proved(f"still alive: pid {', '.join(map(str, alive))}")
        if self._reading:
            self._reading.join(READ_LIMIT)
        verdict = self._verify_job()
        if verdict.may_recheck:
            # The user may ask for a second attempt. If the cluster does not answer then either, no further attempt is
            # offered: the lease has run out, or will soon.
            verdict = verdict._replace(may_recheck=not self._is_repeated)
            self._is_repeated, self._silence = True, SECOND_SILENCE
        elif self._waits_for_cleanup:
            self._remove_records()
        else:
            _in_the_background(self._remove_records, self._job)
        return verdict

    def _remove_records(self) -> None:
        with contextlib.suppress(ClusterError):
            teardown.remove_records(Ray(self._address), self._job, self._helper_jobs)

    def _verify_job(self) -> Verdict:
        try:
            return self._prove(Ray(self._address))
        except JobUnknownError as error:
            problem = str(error).rstrip(".")
            return _not_proved(
                f"{problem} (was its head restarted?); a server that ran there ends itself {wire.LEASE:g} s after that"
            )
        except InvalidOption as error:  # a record had no valid address
            return _not_proved(str(error).rstrip("."))
        except ClusterError as error:
            problem = str(error).rstrip(".")
            return _not_proved(
                f"{problem}; a server that runs there ends itself {wire.LEASE:g} s after the last message of this kernel",
                may_recheck=True,
            )

    def _prove(self, ray: Ray) -> Verdict:
        job = teardown.wait(ray, self._job, END_LIMIT, self._silence)
        # The request holds keys, and the job may not have read and removed it.
        ray.put(wire.request(job.id), b"")
        if not job.status.over:
            return _not_proved(
                f"the job {job.id} is still {job.status.value} on the cluster", may_recheck=True
            )
        if job.node is None:  # the job never ran
            self.failure = Failure(f"Ray has not started the job: {job.message}", "See %vllm cluster", ())
            return Verdict(Proof.PROCESSES, True, (), "the job had no node yet")
        nodes = {node.id: node for node in ray.nodes()}
        own = nodes.get(job.node)
        if own is None or not own.alive:
            where = own.where if own else f"the node {job.node}"
            return _not_proved(f"{where} is gone from the cluster: what is left there cannot be seen")
        return self._verdict(ray, job, nodes)

    def _verdict(self, ray: Ray, job: Job, nodes: Mapping[str, Node]) -> Verdict:
        """Return the verdict on a job that has ended and whose node is alive."""
        own = nodes[job.node or ""]
        log = ray.tail(job.id, own.id)
        report = wire.last_line(log, wire.RELEASED)
        refused = wire.last_line(log, wire.REFUSED)
        if refused:
            self.failure = Failure(f"{refused['cause'].rstrip('.')} (on {own.where})", refused["hint"], ())
        whole = len(log) < LOG_LINES  # of a longer log, `tail` returns only the end
        refused_at_once = refused is not None and wire.last_line(log, wire.PLACED) is None
        if not report and whole and (refused_at_once or not wire.last_line(log, wire.BEGUN)):
            self.failure = self.failure or Failure(
                f"The job ended before it had started the server (on {own.where})",
                "See its log; docs/cluster.md says what python3 on the nodes must have",
                tuple(line for line in log if line.strip())[-LAST_LINES:],
            )
            return Verdict(Proof.PROCESSES, True, (), f"nothing was started on {own.where}")
        verdict = unpack(report["release"], own.where) if report is not None else None
        workers = _workers(ray, job)
        if left := teardown.clear(ray, job):
            return _not_proved(f"Ray still has {left}", may_recheck=True)
        # Without a report the job's process was killed, and the guards on its node may still be releasing the server.
        asked = workers if verdict else {**workers, own.id: workers.get(own.id, set())}
        if not asked:
            assert verdict is not None  # noqa: S101 - without a verdict the job's node is asked
            return verdict
        alive = {node: pids for node, pids in asked.items() if node in nodes and nodes[node].alive}
        answers = node_jobs.ask_nodes(ray, job.id, "--left", alive, self._helper_jobs)
        result = evaluate(asked, answers, self._ready_gpus, nodes)
        verdict = verdict or Verdict(result.proof, True, (), f"on {own.where}, whose own process was killed")
        return weakest(verdict, result, own.id, len(set(workers) - {own.id}))


def _in_the_background(work: Callable[[], None], job: str) -> threading.Thread | None:
    thread = threading.Thread(target=work, name=f"vllm-magic {job}", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread": the GPUs are not read, or the records stay at the head
        return None
    return thread


def _not_proved(note: str, *, may_recheck: bool = False) -> Verdict:
    return Verdict(Proof.NONE, False, (), note, may_recheck=may_recheck)


def _workers(ray: Ray, job: Job) -> dict[str, set[int]]:
    """Return the pids that the job's actors had on each node, by the node's id; none for an engine on one node."""
    found: dict[str, set[int]] = {}
    for actor in ray.actors(job.ray_job) if job.ray_job else ():
        if actor.pid and actor.node:
            found.setdefault(actor.node, set()).add(actor.pid)
    return found


def unpack(release: Mapping[str, Any], where: str) -> Verdict:
    """Return the verdict from the release that a node reports; ``where`` names the node."""
    note = f"on {where}" + (f"; {release['note']}" if release["note"] else "")
    return Verdict(
        Proof(release["proof"]),
        bool(release["verified"]),
        tuple(GpuMemory(**gpu) for gpu in release["vram"]),
        note,
        tuple(EndedProcess(**process) for process in release["ended"]),
    )
