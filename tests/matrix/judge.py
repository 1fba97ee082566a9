"""What is left of a server after the death, and when its last process was gone."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_magic.gpu.probe import Probe
from vllm_magic.linux import processes, shared_memory

from . import watch
from .ports import can_bind

if TYPE_CHECKING:
    from vllm_magic.linux.shared_memory import Segment

    from .stage import Stage
    from .watch import Watched

LIMIT = 60.0  # seconds for vllm_magic; a busy machine is no fault
SETTLE = 6.0  # seconds for the others: vLLM's own stop takes up to 5


@dataclass
class Verdict:
    """One cell.

    Attributes:
        engine: its name.
        phase: its name.
        seconds: from the death until the last process was gone; None if one is left.
        survivors: the titles of the processes that are left.
        vram: bytes of the fake GPUs that they hold.
        shared_memory: segments in /dev/shm.
        files: in the private folder, and the folder itself.
        port_taken: whether the port cannot be bound again.
        zombies: dead children that nobody has collected.
    """

    engine: str
    phase: str
    seconds: float | None
    survivors: list[str] = field(default_factory=list)
    vram: int = 0
    shared_memory: int = 0
    files: list[str] = field(default_factory=list)
    port_taken: bool = False
    zombies: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is left."""
        left = (self.survivors, self.vram, self.shared_memory, self.files, self.port_taken, self.zombies)
        return not any(left)


def judge(stage: Stage, died: float) -> list[Verdict]:
    """Wait until everything is gone, or the time for it is over; then say what there is."""
    deadline = time.monotonic() + (stage.death.settle or (LIMIT if stage.method == "vllm_magic" else SETTLE))
    probe = Probe(start_timeout=60.0, env=stage.gpu)
    try:
        while True:
            # VRAM comes last: for each answer the fake driver reads all of /proc.
            verdicts = _look(stage, died, deadline, {})
            over = time.monotonic() >= deadline
            if over or all(verdict.clean for verdict in verdicts):
                verdicts = _look(stage, died, deadline, _held(probe))
                if over or all(verdict.clean for verdict in verdicts):
                    return verdicts
            time.sleep(0.05)
    finally:
        probe.close()


def _look(stage: Stage, died: float, deadline: float, held: dict[int, int]) -> list[Verdict]:
    servers = stage.servers.values()
    known = {identity for server in servers for identity in server.processes}
    stage.ends.wait(known, deadline - time.monotonic())
    for name, found in watch.members(stage.id).items():  # what was forked since
        stage.servers[name].processes |= {one.identity for one in found}
        stage.ends.add(one.identity for one in found)
    segments = _segments()
    zombies = _zombies(stage)
    verdicts = [_verdict(server, died, stage, held, segments, zombies) for server in servers]
    unattributed = sum(held.values()) - sum(verdict.vram for verdict in verdicts)
    assert unattributed == 0, f"VRAM that is nobody's: {held}"
    return verdicts


def _verdict(
    server: Watched,
    died: float,
    stage: Stage,
    held: dict[int, int],
    segments: set[Segment],
    zombies: dict[int, int],
) -> Verdict:
    left = [one for one in server.processes if processes.is_alive(one)]
    over = not left and server.processes <= stage.ends.at.keys()
    last = max(stage.ends.at[one] for one in server.processes) if over else None
    return Verdict(
        engine=server.cell.engine.name,
        phase=server.cell.phase.value,
        seconds=None if last is None else round(max(0.0, last - died), 3),
        survivors=[processes.title(one.pid) or "?" for one in left],
        vram=sum(held.get(one.pid, 0) for one in server.processes),
        shared_memory=len(server.segments & segments),
        files=_files(server.folder) if stage.method == "vllm_magic" else [],
        port_taken=not can_bind(server.port),
        zombies=sum(one.pid in zombies for one in server.processes),
    )


def _held(probe: Probe) -> dict[int, int]:
    snapshot = probe.snapshot(60.0)
    assert snapshot.gpus, snapshot.problem
    held: dict[int, int] = {}
    for gpu in snapshot.gpus:
        listed = {one.pid: one.used or 0 for one in gpu.processes or ()}
        for pid, used in listed.items():
            held[pid] = held.get(pid, 0) + used
        rest = (gpu.used or 0) - sum(listed.values())
        held[0] = held.get(0, 0) + rest
    return {pid: used for pid, used in held.items() if used}


def _segments() -> set[Segment]:
    found = set()
    for name in os.listdir(shared_memory.FOLDER):
        with contextlib.suppress(FileNotFoundError):  # of another run, and gone meanwhile
            stat = os.stat(os.path.join(shared_memory.FOLDER, name))
            found.add(shared_memory.Segment(stat.st_dev, stat.st_ino))
    return found


def _zombies(stage: Stage) -> dict[int, int]:
    """Zombies whose parent is another process. Those that the stage has inherited it collects, as init does."""
    table = processes.table()
    zombies = {}
    for pid, process in table.items():
        if process.alive:
            continue
        if process.parent == stage.host.pid and not stage.death.collects:
            continue
        if process.parent != os.getpid():
            zombies[pid] = process.parent
        elif pid != stage.host.pid and process.identity in stage.ends.at:
            _collect(pid)
    return zombies


def _collect(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _files(folder: str) -> list[str]:
    found = [os.path.join(base, name) for base, _, names in os.walk(folder) for name in names]
    return [*found, folder] if os.path.exists(folder) else found
