"""Prove a release on this machine: the processes are gone, and the memory is back.

The module `gpu_comparison` compares the driver's figures, GPU by GPU.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from vllm_magic.gpu.holders import device_files, holders
from vllm_magic.linux import marks, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.notation import written
from vllm_magic.release import foreign_holders, gpu_comparison, gpu_json
from vllm_magic.release.gpu_comparison import GpuHistory, pid_list, pids_on
from vllm_magic.release.result import GpuMemory, Proof
from vllm_magic.release.verifier import Verdict, Verifier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.release.gpu_comparison import MemoryVerdict

POLL_INTERVAL = 0.1  # seconds between checks of memory that is not back yet
MEMORY_LIMIT = 60.0  # seconds for memory to come back after the last process ended
REPEATED_LIMIT = 5.0  # the same, when a stop is repeated
SNAPSHOT_LIMIT = 2.0  # seconds that reading the GPUs may delay a stop
PATIENT_SNAPSHOT_LIMIT = 15.0  # the same, for a stop without a waiting user


class LocalVerifier(Verifier):
    """Compares the GPUs before, during and after the life of one server. Not thread-safe.

    Args:
        probe: reads the GPUs.
        baseline: the GPUs before the start.
        chosen: the UUIDs of the GPUs that the server may use; () when vLLM chooses.
        mark: ``b"NAME=value"`` in the environment of each of the server's processes.
        kernel: the kernel that started the server, if that is another process than this one. It never counts as an unknown
            holder of GPU memory.
    """

    failure: Failure | None = None  # the log shows the cause

    def __init__(
        self,
        probe: Probe,
        baseline: Snapshot,
        chosen: Sequence[str],
        mark: bytes,
        kernel: Identity | None = None,
    ) -> None:
        self._probe = probe
        self.baseline = baseline
        self.chosen = frozenset(chosen)
        self._mark = mark
        self._own = mark.partition(b"=")[2].decode()
        self._kernel = kernel
        self._limit: float | None = None  # `MEMORY_LIMIT`, until a proof has failed
        self._loaded: Snapshot | None = None
        self._before: Snapshot | None = None
        self.known: set[Identity] = set()

    def observe_ready(self, members: Collection[Identity] = ()) -> None:
        """Remember the processes of the ready server, and the memory that they hold."""
        self.known |= set(members)
        if self.baseline.gpus:
            self._loaded = self._probe.snapshot(timeout=SNAPSHOT_LIMIT, may_start=False)

    def observe_before_stop(self, members: Collection[Identity] = (), *, in_a_hurry: bool = True) -> None:
        """Remember the processes of the server just before its end, and the memory that they hold.

        In a hurry the GPUs are read only if that takes no more than `SNAPSHOT_LIMIT` and starts no process.
        """
        self.known |= set(members)
        if self.baseline.gpus:
            limit = SNAPSHOT_LIMIT if in_a_hurry else PATIENT_SNAPSHOT_LIMIT
            self._before = self._probe.snapshot(timeout=limit, may_start=not in_a_hurry)

    def packed(self) -> dict[str, Any] | None:
        """Return the verifier as JSON, for `unpacked`; None without a GPU.

        The unpacked verifier waits for memory only `REPEATED_LIMIT` seconds.
        """
        snapshots = {
            name: gpu_json.pack(snapshot) if snapshot else []
            for name, snapshot in (("loaded", self._loaded), ("before", self._before))
        }
        return (
            snapshots
            | {
                "id": self._own,
                "kernel": list(self._kernel or processes.own_identity()),
                "chosen": sorted(self.chosen),
                "baseline": gpu_json.pack(self.baseline),
                "known": sorted(map(list, self.known)),
            }
            if self.baseline.gpus
            else None
        )

    @classmethod
    def unpacked(cls, probe: Probe, packed: Mapping[str, Any]) -> LocalVerifier:
        """Return the verifier from what `packed` returned. The caller has checked the fields, except those of the GPUs."""
        mark = f"{marks.MARK}={packed['id']}".encode()
        baseline = gpu_json.unpack(packed["baseline"])
        verifier = cls(probe, baseline, packed["chosen"], mark, Identity(*packed["kernel"]))
        verifier._loaded, verifier._before = (
            gpu_json.unpack(packed[moment]) for moment in ("loaded", "before")
        )
        verifier.known = {Identity(*pair) for pair in packed["known"]}
        verifier._limit = REPEATED_LIMIT
        return verifier

    def observe_now(self) -> Snapshot:
        """Return the GPUs as they are now."""
        return self._read_gpus()

    def verify(self, ended: Collection[Identity], leader: Identity | None = None) -> Verdict:
        """Check that the processes are gone and the memory is back; wait up to `MEMORY_LIMIT` seconds for memory that comes late.

        Args:
            ended: the processes that were ended.
            leader: the leader of the server's session, or None.
        """
        self.known |= set(ended)
        verdict = self._prove(leader)
        if not verdict.verified:
            self._limit = REPEATED_LIMIT
        return verdict._replace(left_alone=left_alone(self._mark, leader))

    def _prove(self, leader: Identity | None) -> Verdict:
        alive = {identity.pid for identity in self.known if processes.is_alive(identity)}
        alive |= {process.identity.pid for process in marks.members(self._mark, leader)}
        if alive:
            return Verdict(Proof.NONE, False, (), f"still alive: {pid_list(sorted(alive))}", may_recheck=True)
        proof = Proof.PROCESSES
        files = device_files()
        if files:
            held = set(holders(files, marks.proved_pids(self._mark, leader)).by_pid)
            if held:
                note = f"{pid_list(sorted(held))} still holds a GPU's device file"
                return Verdict(proof, False, (), note, may_recheck=True)
            proof = Proof.DEVICE_FILES
        if not self.baseline.gpus:
            return Verdict(proof, True, (), self.baseline.problem or "no GPU")
        return self._prove_memory(proof, leader)

    def _prove_memory(self, proof: Proof, leader: Identity | None) -> Verdict:
        ours = frozenset(identity.pid for identity in self.known)
        began = time.monotonic()
        limit = MEMORY_LIMIT if self._limit is None else self._limit
        pause = threading.Event()
        while True:
            now = self._read_gpus()
            if not now.gpus:
                return Verdict(proof, True, (), now.problem or "the GPUs cannot be seen any more")
            waited = time.monotonic() - began
            last = waited >= limit
            histories = [
                self._history(gpu, now.same(gpu, self.baseline), ours, leader)
                for gpu in self.baseline.gpus
                if self._concerns(gpu, self.baseline, ours)
            ]
            verdicts = [
                gpu_comparison.compare(history, math.inf if last else waited) for history in histories
            ]
            late = [verdict.note for verdict in verdicts if not verdict.back]
            if not late:
                break
            if last:
                note = written(f"{'; '.join(late)}. %vllm gpu shows who holds memory")
                return Verdict(proof, False, self._vram(now, ours), note, may_recheck=True)
            pause.wait(POLL_INTERVAL)
        verdicts = [
            self._note_arrivals(verdict, history)
            for verdict, history in zip(verdicts, histories, strict=True)
        ]
        # The proof of the release is the weakest proof of all its GPUs.
        strongest = min(
            (verdict.proof or proof for verdict in verdicts), key=list(Proof).index, default=proof
        )
        note = "; ".join(verdict.note for verdict in verdicts if verdict.note)
        note = note or ("" if verdicts else "the driver does not say which GPU it used")
        return Verdict(strongest, True, self._vram(now, ours), note)

    def _history(
        self, baseline: Gpu, now: Gpu | None, ours: frozenset[int], leader: Identity | None
    ) -> GpuHistory:
        snapshots = self._snapshots()
        living = {
            pid: process.identity
            for pid in pids_on(now)
            if (process := processes.read(pid)) is not None and process.alive
        }
        return GpuHistory(
            baseline=baseline,
            snapshots=tuple(
                gpu for snapshot in snapshots if (gpu := snapshot.same(baseline, self.baseline)) is not None
            ),
            now=now,
            ours=ours,
            named=any(_listed(snapshot, ours) for snapshot in snapshots),
            reused=frozenset(
                pid
                for pid, identity in living.items()
                if pid in ours and identity not in self.known and identity.start != processes.HIDDEN
            ),
            young=frozenset(
                pid for pid, identity in living.items() if leader and identity.start > leader.start
            ),
            hidden=frozenset(pids_on(now) - living.keys()),
        )

    def _note_arrivals(self, verdict: MemoryVerdict, history: GpuHistory) -> MemoryVerdict:
        came = gpu_comparison.arrivals(history)
        unknown = (
            foreign_holders.unknown_pids({process.pid for process in came}, self._own, self._kernel)
            if came
            else set()
        )
        named = [process for process in came if process.pid in unknown]
        if not named:
            return verdict
        line = foreign_holders.describe(history.baseline.index, named, history.hidden)
        return gpu_comparison.weakened(verdict, history)._replace(
            note="; ".join(filter(None, (verdict.note, line)))
        )

    def _read_gpus(self) -> Snapshot:
        """Return the GPUs now; read them a second time if the first attempt finds none, as after a crash of the probe."""
        now = self._probe.snapshot()
        return now if now.gpus else self._probe.snapshot()

    def _concerns(self, gpu: Gpu, of: Snapshot, ours: frozenset[int]) -> bool:
        """Whether the server used this GPU of this snapshot.

        It did if the GPU was chosen for the server, or the driver listed the server's processes there. If the driver listed
        them on no GPU, a GPU counts whose used memory grew while the server ran.
        """
        if self.chosen:
            return gpu.uuid in self.chosen
        snapshots = self._snapshots()
        if any(_listed(snapshot, ours) for snapshot in snapshots):
            return any(ours & pids_on(snapshot.same(gpu, of)) for snapshot in snapshots)
        baseline = _used(self.baseline.same(gpu, of))
        seen = [used for snapshot in snapshots if (used := _used(snapshot.same(gpu, of))) is not None]
        return not snapshots or (
            baseline is not None and any(used - baseline > gpu_comparison.TOLERANCE for used in seen)
        )

    def _snapshots(self) -> list[Snapshot]:
        return [
            snapshot for snapshot in (self._loaded, self._before) if snapshot is not None and snapshot.gpus
        ]

    def _vram(self, snapshot: Snapshot, ours: frozenset[int]) -> tuple[GpuMemory, ...]:
        snapshots = self._snapshots()
        return tuple(
            GpuMemory(
                index=gpu.index,
                uuid=gpu.uuid,
                name=gpu.name,
                baseline=_used(self.baseline.same(gpu, snapshot)),
                before=_used(snapshots[-1].same(gpu, snapshot)) if snapshots else None,
                after=gpu.used,
                held=seen.held_by(ours)
                if snapshots and (seen := snapshots[-1].same(gpu, snapshot))
                else None,
            )
            for gpu in snapshot.gpus
            if self._concerns(gpu, snapshot, ours)
        )


def left_alone(mark: bytes, leader: Identity | None) -> str:
    """Return a sentence about the living processes that have a server's environment but do not belong to it; "" for none."""
    found = [
        f"{processes.shown_name(process)[:60]} (pid {process.identity.pid})"
        for process in marks.with_copied_environment(mark, leader)
    ]
    if not found:
        return ""
    has, was = ("has", "was") if len(found) == 1 else ("have", "were")
    return f"{', '.join(found)} {has} the server's environment, but {was} not started by it: left alone."


def _listed(snapshot: Snapshot, ours: frozenset[int]) -> bool:
    return any(ours & pids_on(gpu) for gpu in snapshot.gpus)


def _used(gpu: Gpu | None) -> int | None:
    return gpu.used if gpu else None
