"""Proving a release: the processes are gone, and the memory has returned.

NVML's figures are taken as they are known to be (nvidia-smi's "used" differs between drivers and
versions of the call; per-process figures are absent on WSL2 and MIG, and carry other pids in some containers):
memory is judged by what changed since a baseline taken before the start, and what other processes took since
then is taken off where the driver names them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.gpu.holders import device_files, holders
from vllm_magic.linux import marks, processes
from vllm_magic.release import GpuMemory, Proof

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_magic.engine.failures import Failure
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.linux.processes import Identity
    from vllm_magic.release import EndedProcess

TOLERANCE = 64 * 2**20  # bytes; the driver's own share moves a little with the number of its clients
LOOK = 0.1  # seconds between looks at memory that is not back yet
LIMIT = 60.0  # seconds for memory to come back after the last process ended
LOOK_LIMIT = 2.0  # seconds that a look at the GPUs may delay a stop
PATIENT_LOOK_LIMIT = 15.0  # the same, for one that nobody waits for
WITHOUT_NAMES = 5.0  # seconds of `LIMIT` for a server that never was ready, where the driver names nobody


class Verdict(NamedTuple):
    """What `Witness.prove` found."""

    proof: Proof
    verified: bool
    vram: tuple[GpuMemory, ...]
    note: str
    elsewhere: tuple[EndedProcess, ...] = ()  # what was ended on other machines
    unseen: bool = False  # what is there could not be looked at, and another look may
    left_alone: str = ""  # who has the server's environment and is none of it


class Witness:
    """Looks at the GPUs before, during and after one server. For one thread.

    Args:
        probe: how to look.
        baseline: the GPUs before the start.
        chosen: the UUIDs the server may use; () when vLLM chooses.
        mark: ``b"NAME=value"`` in the environment of each of the server's processes.

    Attributes:
        baseline: the GPUs before the start.
        chosen: the UUIDs the server may use; none when vLLM chooses.
        known: the server's processes, as far as they were told.
    """

    failure: Failure | None = None  # only a node of a cluster says more than the log

    def __init__(self, probe: Probe, baseline: Snapshot, chosen: Sequence[str], mark: bytes) -> None:
        self._probe = probe
        self.baseline = baseline
        self.chosen = frozenset(chosen)
        self._mark = mark
        self._loaded: Snapshot | None = None
        self._before: Snapshot | None = None
        self.known: set[Identity] = set()

    def look_when_ready(self, members: Collection[Identity] = ()) -> None:
        """Remember who the server is once it is ready, and what it holds."""
        self.known |= set(members)
        if self.baseline.gpus:
            self._loaded = self._probe.snapshot(timeout=LOOK_LIMIT, may_start=False)

    def look_before_stop(self, members: Collection[Identity] = (), *, in_a_hurry: bool = True) -> None:
        """Remember who the server is just before the end, and what it holds; in a hurry, if that can be had at once."""
        self.known |= set(members)
        if self.baseline.gpus:
            limit = LOOK_LIMIT if in_a_hurry else PATIENT_LOOK_LIMIT
            self._before = self._probe.snapshot(timeout=limit, may_start=not in_a_hurry)

    def look_now(self) -> Snapshot:
        """The GPUs as they are; for who wants to know more than whether they are back."""
        return self._look_again()

    def prove(self, ended: Collection[Identity], leader: Identity | None = None) -> Verdict:
        """Check that everything is back; waits up to `LIMIT` seconds for memory that is on its way.

        Args:
            ended: the processes that were ended.
            leader: whose session it was, or None.
        """
        return self._prove(ended, leader)._replace(left_alone=left_alone(self._mark))

    def _prove(self, ended: Collection[Identity], leader: Identity | None) -> Verdict:
        ours = self.known | set(ended)
        alive = {identity.pid for identity in ours if processes.is_alive(identity)}
        alive |= {one.identity.pid for one in marks.members(self._mark, leader)}
        if alive:
            return Verdict(Proof.NONE, False, (), f"still alive: {_pids(sorted(alive))}")
        proof = Proof.PROCESSES
        files = device_files()
        if files:
            held = set(holders(files, marks.carriers(self._mark, leader)).by_pid)
            if held:
                return Verdict(proof, False, (), f"{_pids(sorted(held))} still holds a GPU's device file")
            proof = Proof.DEVICE_FILES
        if not self.baseline.gpus:
            return Verdict(proof, True, (), self.baseline.problem or "no GPU")
        return self._prove_memory(proof, {identity.pid for identity in ours})

    def _prove_memory(self, proof: Proof, ours: set[int]) -> Verdict:
        deadline = time.monotonic() + LIMIT
        # A failed start on a GPU of which the driver says little is not held up for long, and keeps its own cause.
        doubtful = float("inf") if self._looks() else time.monotonic() + min(LIMIT, WITHOUT_NAMES)
        pause = threading.Event()
        while True:
            now = self._look_again()
            if not now.gpus:
                return Verdict(proof, True, (), now.problem or "the GPUs cannot be seen any more")
            concerned = [gpu for gpu in self.baseline.gpus if self._concerns(gpu.uuid, ours)]
            judged = [self._judge(now.gpu(gpu.uuid), gpu, ours) for gpu in concerned]
            late = [one for one in judged if not one.back and (one.named or time.monotonic() < doubtful)]
            if not late:
                break
            if time.monotonic() >= deadline:
                return Verdict(
                    proof,
                    False,
                    self._vram(now, ours),
                    f"{'; '.join(one.note for one in late)}. %vllm gpu shows who holds what",
                )
            pause.wait(LOOK)
        # The weakest of the GPUs says how strong the whole is.
        strongest = min((one.proof or proof for one in judged), key=list(Proof).index, default=proof)
        note = "; ".join(one.note for one in judged if one.note)
        note = note or ("" if judged else "the driver does not say which GPU it used")
        return Verdict(strongest, True, self._vram(now, ours), note)

    def _look_again(self) -> Snapshot:
        """The GPUs now; a probe that has crashed is given a second chance."""
        now = self._probe.snapshot()
        return now if now.gpus else self._probe.snapshot()

    def _concerns(self, uuid: str, ours: set[int]) -> bool:
        """Whether the server used this GPU: chosen for it, or listed with it, or grown while it started."""
        if self.chosen:
            return uuid in self.chosen
        looks = self._looks()
        if any(_listed(look, ours) for look in looks):
            return any(ours & _pids_on(look.gpu(uuid)) for look in looks)
        baseline = _used(self.baseline.gpu(uuid))
        seen = [used for look in looks if (used := _used(look.gpu(uuid))) is not None]
        return not looks or (baseline is not None and any(used - baseline > TOLERANCE for used in seen))

    def _judge(self, gpu: Gpu | None, baseline: Gpu, ours: set[int]) -> _Judgement:
        where = f"GPU {baseline.index}"
        if gpu is None:
            return _Judgement(True, None, True, f"{where} cannot be seen any more")
        pids = _pids_on(gpu)
        if pids & ours:
            return _Judgement(
                False, None, True, f"{where}: the driver still lists {_pids(sorted(pids & ours))}"
            )
        named = _says_how_much(gpu) and any(_listed(look, ours) for look in self._looks())
        if baseline.used is None or gpu.used is None:
            listed = gpu.processes is not None and any(_listed(look, ours) for look in self._looks())
            proof = Proof.NVML_PROCESSES if listed else None
            return _Judgement(True, proof, True, f"{where} does not report its memory")
        if gpu.used <= baseline.used + TOLERANCE:
            return _Judgement(True, Proof.NVML_MEMORY, True, "")
        more = f"{where} has {(gpu.used - baseline.used) / 2**30:.2f} GiB more in use than before the start"
        if named:
            others = _taken_by_others(baseline, gpu, visible_only=False)
            back = gpu.used <= baseline.used + others + TOLERANCE
            return _Judgement(back, Proof.NVML_MEMORY, True, "" if back else f"{more}{_names(gpu)}")
        back = gpu.used <= self._expected_without_names(gpu, baseline, baseline.used) + TOLERANCE
        return _Judgement(back, None, False, f"{more}, and the driver does not say whose that is")

    def _looks(self) -> list[Snapshot]:
        return [look for look in (self._loaded, self._before) if look is not None and look.gpus]

    def _expected_without_names(self, gpu: Gpu, baseline: Gpu, start: int) -> int:
        """What may be in use where the driver does not name our processes: an estimate, and no proof.

        That is what was used before the stop less what came while the server started. For one that never came
        so far it is what others are said to have taken.
        """
        if not self._looks():
            return start + _taken_by_others(baseline, gpu, visible_only=True)
        loaded = _used(self._loaded.gpu(gpu.uuid)) if self._loaded else None
        before = _used(self._before.gpu(gpu.uuid)) if self._before else None
        return start if loaded is None or before is None else before - max(0, loaded - start)

    def _vram(self, now: Snapshot, ours: set[int]) -> tuple[GpuMemory, ...]:
        looks = self._looks()
        return tuple(
            GpuMemory(
                index=gpu.index,
                uuid=gpu.uuid,
                name=gpu.name,
                baseline=_used(self.baseline.gpu(gpu.uuid)),
                before=_used(looks[-1].gpu(gpu.uuid)) if looks else None,
                after=gpu.used,
                held=seen.held_by(ours) if looks and (seen := looks[-1].gpu(gpu.uuid)) else None,
            )
            for gpu in now.gpus
            if self._concerns(gpu.uuid, ours)
        )


def left_alone(mark: bytes) -> str:
    """One sentence on the living processes that have a server's environment and were not started by it; "" for none."""
    found = [f"{processes.shown_name(one)[:60]} (pid {one.identity.pid})" for one in marks.strangers(mark)]
    if not found:
        return ""
    has, was = ("has", "was") if len(found) == 1 else ("have", "were")
    return f"{', '.join(found)} {has} the server's environment, but {was} not started by it: left alone."


class _Judgement(NamedTuple):
    """One GPU: whether its memory is back, by which proof, and whether the driver named our processes there."""

    back: bool
    proof: Proof | None
    named: bool
    note: str


def _says_how_much(gpu: Gpu) -> bool:
    return gpu.processes is not None and all(process.used is not None for process in gpu.processes)


def _listed(look: Snapshot, ours: set[int]) -> bool:
    return any(ours & _pids_on(gpu) for gpu in look.gpus)


def _pids_on(gpu: Gpu | None) -> set[int]:
    return {process.pid for process in (gpu.processes or ())} if gpu else set()


def _used(gpu: Gpu | None) -> int | None:
    return gpu.used if gpu else None


def _taken_by_others(baseline: Gpu, now: Gpu, *, visible_only: bool) -> int:
    """Bytes that other processes hold now and did not hold at the baseline.

    With ``visible_only``, what a pid took that is not visible here is not taken off: it may be one of ours under
    another number (a container that sees the host's pids).
    """
    then = {process.pid: process.used or 0 for process in baseline.processes or ()}
    taken = 0
    for process in now.processes or ():
        before = then.pop(process.pid, 0)
        if not visible_only or processes.read(process.pid) is not None:
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
