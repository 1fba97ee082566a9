"""Everything that has to be there before a server is started."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine import command as commands
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.gpu import choice, locks
from vllm_magic.guard.protocol import Order
from vllm_magic.life.proof import Witness

if TYPE_CHECKING:
    import threading

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.ledger import Folder

RELEASE_WAIT = 120.0  # seconds to wait for releases that others have under way on the same GPUs


@dataclass(frozen=True)
class Prepared:
    """A server that only has to be executed.

    Attributes:
        folder: its private folder.
        order: what the guards are told.
        witness: has seen the GPUs as they were before.
        gpus: the UUIDs it may use.
        mark: ``b"NAME=value"`` in the environment of each of its processes.
        port: where it will listen.
    """

    folder: Folder
    order: Order
    witness: Witness
    gpus: tuple[str, ...]
    mark: bytes
    port: int


def prepare(spec: ServerSpec, command: Command, probe: Probe, cancelled: threading.Event) -> Prepared | None:
    """Wait until the GPUs are free of releases, look at them, choose, and make the folder; None when cancelled.

    Raises:
        InvalidOption: ``--gpus`` names what is not there.
        StartFailed: a release on the GPUs does not end, or the folder cannot be made.
    """
    baseline = probe.snapshot()
    chosen = _choose(spec, baseline)
    deadline = time.monotonic() + RELEASE_WAIT
    # What is chosen may change with what a release gives back, so both are looked at again after each wait.
    while not locks.wait_for_releases(_uuids(chosen or baseline.gpus), 0.0, cancelled):
        rest = deadline - time.monotonic()
        if cancelled.is_set():
            return None
        if rest <= 0:
            raise StartFailed(
                "Another server is still being released on its GPU", "%vllm gpu shows who holds it"
            )
        locks.wait_for_releases(_uuids(chosen or baseline.gpus), rest, cancelled)
        baseline = probe.snapshot()
        chosen = _choose(spec, baseline)
    return _prepared(spec, command, probe, baseline, chosen)


def _prepared(
    spec: ServerSpec, command: Command, probe: Probe, baseline: Snapshot, chosen: tuple[Gpu, ...]
) -> Prepared:
    try:
        lock_files = locks.lock_paths(_uuids(chosen or baseline.gpus))
        folder = ledger.create(spec.name)
    except OSError as error:
        raise StartFailed(
            f"The state folder cannot be used: {error}", "Set VLLM_MAGIC_HOME to another one"
        ) from error
    visible = choice.cuda_visible_devices(chosen) if chosen else None
    mark = f"{commands.MARK}={folder.id}".encode()
    order = Order(
        argv=list(command.argv),
        env=commands.environment(spec, command, folder.id, folder.tmp, visible),
        cwd=spec.cwd,
        tmp=str(folder.tmp),
        folder=str(folder.path),
        log=str(folder.log),
        keep_log=str(folder.kept_log),
        locks=[str(path) for path in lock_files],
    )
    witness = Witness(probe, baseline, _uuids(chosen), mark)
    return Prepared(folder, order, witness, _uuids(chosen or baseline.gpus), mark, command.port)


def _choose(spec: ServerSpec, baseline: Snapshot) -> tuple[Gpu, ...]:
    if spec.gpus is None:
        return ()
    count = commands.gpu_count(spec.args)
    try:
        return choice.choose(spec.gpus, baseline, count, commands.memory_fraction(spec.args))
    except ValueError as error:
        raise InvalidOption(str(error)) from None


def _uuids(gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    return tuple(gpu.uuid for gpu in gpus)
