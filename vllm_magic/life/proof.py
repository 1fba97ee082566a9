"""Proving a release: the processes are gone, and the memory has returned.

NVML's figures are taken as they are known to be (facts: nvidia-smi's "used" differs between drivers and
versions of the call; per-process figures are absent on WSL2 and MIG, and carry other pids in some containers):
memory is judged by what changed since a baseline taken before the start, and what other processes took since
then is taken off where the driver names them.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.gpu.holders import device_files, holders
from vllm_magic.linux import processes
from vllm_magic.release import GpuMemory, Proof

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.linux.processes import Identity

TOLERANCE = 64 * 2**20  # bytes; the driver's own share moves a little with the number of its clients
LOOK = 0.1  # seconds between looks at memory that is not back yet
LIMIT = 60.0  # seconds for memory to come back after the last process ended
BEFORE_LIMIT = 2.0  # seconds that a look at the GPUs may delay a stop


class Verdict(NamedTuple):
    """What `Witness.prove` found."""

    proof: Proof
    verified: bool
    vram: tuple[GpuMemory, ...]
    note: str


class Witness:
    """Looks at the GPUs before, during and after one server. For one thread.

    Args:
        probe: how to look.
        baseline: the GPUs before the start.
        chosen: the UUIDs the server may use; () when vLLM chooses.
        mark: ``b"NAME=value"`` in the environment of each of the server's processes.
    """

    def __init__(self, probe: Probe, baseline: Snapshot, chosen: Sequence[str], mark: bytes) -> None:
        self._probe = probe
        self._baseline = baseline
        self._chosen = frozenset(chosen)
        self._mark = mark
        self._loaded: Snapshot | None = None
        self._before: Snapshot | None = None

    def look_when_ready(self) -> None:
        """Remember what the server holds once it is ready."""
        if self._baseline.gpus:
            self._loaded = self._probe.snapshot()

    def look_before_stop(self) -> None:
        """Remember what is held just before the end."""
        if self._baseline.gpus:
            self._before = self._probe.snapshot(timeout=BEFORE_LIMIT)

    def prove(self, ended: Collection[Identity]) -> Verdict:
        """Check that everything is back; waits up to `LIMIT` seconds for memory that is on its way."""
        alive = [identity.pid for identity in ended if processes.is_alive(identity)]
        alive += [pid for pid in marked(self._mark) if pid not in alive]
        if alive:
            return Verdict(Proof.NONE, False, (), f"still alive: {_pids(alive)}")
        proof = Proof.PROCESSES
        files = device_files()
        ours = {identity.pid for identity in ended}
        if files:
            if holders(files, pids=ours).by_pid:
                return Verdict(proof, False, (), "a process of the server still holds a GPU's device file")
            proof = Proof.DEVICE_FILES
        if not self._baseline.gpus:
            return Verdict(proof, True, (), self._baseline.problem or "no GPU")
        return self._prove_memory(proof, ours)

    def _prove_memory(self, proof: Proof, ours: set[int]) -> Verdict:
        deadline = time.monotonic() + LIMIT
        pause = threading.Event()
        while True:
            now = self._probe.snapshot()
            if not now.gpus:
                return Verdict(proof, True, (), now.problem or "the GPUs cannot be seen any more")
            judged = [self._judge(gpu, ours) for gpu in now.gpus if self._concerns(gpu.uuid, ours)]
            if all(judgement.back for judgement in judged):
                break
            if time.monotonic() >= deadline:
                late = "; ".join(judgement.note for judgement in judged if not judgement.back)
                return Verdict(proof, False, self._vram(now, ours), late)
            pause.wait(LOOK)
        # The weakest of the GPUs says how strong the whole is.
        strongest = min(
            (judgement.proof or proof for judgement in judged), key=list(Proof).index, default=proof
        )
        note = "; ".join(judgement.note for judgement in judged if judgement.note)
        note = note or ("" if judged else "the driver does not say which GPU it used")
        return Verdict(strongest, True, self._vram(now, ours), note)

    def _concerns(self, uuid: str, ours: set[int]) -> bool:
        """Whether the server used this GPU: chosen for it, or listed with it, or grown while it started."""
        if self._chosen:
            return uuid in self._chosen
        looks = self._looks()
        if any(_listed(look, ours) for look in looks):
            return any(ours & _pids_on(look.gpu(uuid)) for look in looks)
        baseline = _used(self._baseline.gpu(uuid))
        seen = [used for look in looks if (used := _used(look.gpu(uuid))) is not None]
        return not looks or (baseline is not None and any(used - baseline > TOLERANCE for used in seen))

    def _judge(self, gpu: Gpu, ours: set[int]) -> _Judgement:
        where = f"GPU {gpu.index}"
        pids = _pids_on(gpu)
        if pids & ours:
            return _Judgement(False, None, f"{where}: the driver still lists {_pids(sorted(pids & ours))}")
        baseline = self._baseline.gpu(gpu.uuid)
        start, used = _used(baseline), gpu.used
        listed = gpu.processes is not None and any(_listed(look, ours) for look in self._looks())
        if start is None or used is None:
            proof = Proof.NVML_PROCESSES if listed else None
            return _Judgement(True, proof, f"{where} does not report its memory")
        if used <= start + TOLERANCE:
            return _Judgement(True, Proof.NVML_MEMORY, "")
        more = f"{where} has {(used - start) / 2**30:.2f} GiB more in use than before the start"
        if listed:
            back = used <= start + _taken_by_others(baseline, gpu) + TOLERANCE
            return _Judgement(back, Proof.NVML_MEMORY, "" if back else f"{more}{_names(gpu)}")
        back = used <= self._expected_without_names(gpu, start) + TOLERANCE
        return _Judgement(back, None, f"{more}, and the driver does not say whose that is")

    def _looks(self) -> list[Snapshot]:
        return [look for look in (self._loaded, self._before) if look is not None and look.gpus]

    def _expected_without_names(self, gpu: Gpu, start: int) -> int:
        """What may be in use where the driver does not name our processes: an estimate, and no proof.

        That is what was used before the stop less what came while the server started. For one that never came
        so far it is what others are said to have taken.
        """
        baseline = self._baseline.gpu(gpu.uuid)
        if not self._looks():
            return start + _taken_by_others(baseline, gpu)
        loaded = _used(self._loaded.gpu(gpu.uuid)) if self._loaded else None
        before = _used(self._before.gpu(gpu.uuid)) if self._before else None
        return start if loaded is None or before is None else before - max(0, loaded - start)

    def _vram(self, now: Snapshot, ours: set[int]) -> tuple[GpuMemory, ...]:
        last = self._before or self._loaded
        return tuple(
            GpuMemory(
                index=gpu.index,
                uuid=gpu.uuid,
                name=gpu.name,
                baseline=_used(self._baseline.gpu(gpu.uuid)),
                before=_used(last.gpu(gpu.uuid)) if last else None,
                after=gpu.used,
            )
            for gpu in now.gpus
            if self._concerns(gpu.uuid, ours)
        )


class _Judgement(NamedTuple):
    back: bool
    proof: Proof | None
    note: str


def marked(mark: bytes) -> list[int]:
    """The living processes whose environment holds the mark: ours, wherever they fled to."""
    me = os.getpid()
    return [
        pid
        for pid, process in processes.table().items()
        if pid != me and process.alive and processes.has_environment(pid, mark)
    ]


def _listed(look: Snapshot, ours: set[int]) -> bool:
    return any(ours & _pids_on(gpu) for gpu in look.gpus)


def _pids_on(gpu: Gpu | None) -> set[int]:
    return {process.pid for process in (gpu.processes or ())} if gpu else set()


def _used(gpu: Gpu | None) -> int | None:
    return gpu.used if gpu else None


def _taken_by_others(baseline: Gpu | None, now: Gpu) -> int:
    """Bytes that other processes hold now and did not hold at the baseline.

    A pid that is not visible here may be one of ours under another number (a container that sees the host's
    pids): what it took is not taken off.
    """
    then = {process.pid: process.used or 0 for process in (baseline.processes or ())} if baseline else {}
    taken = 0
    for process in now.processes or ():
        before = then.pop(process.pid, 0)
        if processes.read(process.pid) is not None:
            taken += (process.used or 0) - before
    return taken - sum(then.values())


def _names(gpu: Gpu) -> str:
    held = [
        f"pid {process.pid}: {process.used / 2**30:.2f} GiB"
        for process in gpu.processes or ()
        if process.used
    ]
    return f" (in use: {', '.join(held)})" if held else ""


def _pids(pids: Sequence[int]) -> str:
    return "pid " + ", ".join(map(str, pids))
