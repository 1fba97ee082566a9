"""The steps of a start: wait for free GPUs and choose them, make the private folder, start the guards."""

from __future__ import annotations

import errno
import stat
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic import ledger
from vllm_magic.engine import command as commands
from vllm_magic.engine import executable, versions
from vllm_magic.engine.models.download import Downloads
from vllm_magic.engine.start_checks import checks
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.gpu import choice, locks, visible
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.folder import discard
from vllm_magic.guard.protocol import LaunchRequest
from vllm_magic.guard.record import Phase, Record
from vllm_magic.linux import files, machine, processes, shortage
from vllm_magic.masking import mask_words, secret_values
from vllm_magic.provisioning import preflight, serialization
from vllm_magic.provisioning.base import Prepared, StartKind
from vllm_magic.release import gpu_json
from vllm_magic.release.local_verifier import LocalVerifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.ledger import Folder
    from vllm_magic.linux.eventfd import Cancellation

# The errors of a machine without a free process, file descriptor or memory.
SHORT = shortage.SHORT | {errno.EAGAIN}
INTERVAL = 0.2  # seconds between two snapshots while memory may come back
FIRST_SNAPSHOT_LIMIT = 15.0  # seconds; NVML takes 1 to 3 s for each GPU if no persistence daemon runs
COMING_BACK = 3.0  # seconds for memory of ended processes to come back, before a start is refused
RELEASE_WAIT = 120.0  # seconds to wait for other releases on the same GPUs


class GpuSelection(NamedTuple):
    """The GPUs before the start, and those that were chosen for the server; none if vLLM chooses."""

    baseline: Snapshot
    chosen: tuple[Gpu, ...]


@dataclass(frozen=True)
class Preparation:
    """Prepares the start of one server.

    Attributes:
        spec: the server.
        command: the command of the server, with its address and key.
        stop_times: the provisioner's ``stop_grace`` and ``stop_patience``, for a stop by another process.
        environ: the kernel's environment.
        probe: reads the GPUs.
    """

    spec: ServerSpec
    command: Command
    stop_times: tuple[float, float]
    environ: Mapping[str, str]
    probe: Probe

    def select_gpus(self, cancelled: Cancellation) -> GpuSelection | None:
        """Wait until no release is under way on the GPUs, read them, and choose GPUs; return None when cancelled.

        Raises:
            InvalidOption: ``--gpus`` names a GPU that does not exist, or the GPUs are too few or too old.
            NotEnoughMemory: the GPUs have too little free memory for the server.
            StartFailed: a release on the GPUs does not end, or the folder of their locks cannot be used.
        """
        try:
            return self._select_gpus(cancelled)
        except OSError as error:
            raise unusable(error) from error

    def prepare(
        self, selection: GpuSelection, standby: Folder | None = None
    ) -> tuple[Prepared, LaunchRequest]:
        """Make the private folder with its record, or use the folder of a standby, whose guard writes the record.

        Args:
            selection: the result of `select_gpus`.
            standby: the folder of the standby that becomes the server; None for a server without one.

        Returns:
            The prepared server, and the request for the guards.

        Raises:
            StartFailed: a folder cannot be made.
        """
        try:
            if standby is None:
                return self._prepare(selection)
            folder = ledger.with_name(standby, self.spec.name)
            return self._build_request(folder, selection, StartKind.WARM)
        except OSError as error:
            raise unusable(error) from error

    def _select_gpus(self, cancelled: Cancellation) -> GpuSelection | None:
        baseline = self.probe.snapshot(timeout=FIRST_SNAPSHOT_LIMIT)
        checks.check_gpus(self.spec, self.environ, self.command.argv[0], baseline)
        chosen = _choose(self.spec, baseline)
        deadline = time.monotonic() + RELEASE_WAIT
        # The memory that a release frees may change the choice, so the GPUs are read and chosen again after each wait.
        while not locks.wait_for_releases(_uuids(chosen or baseline.gpus), 0.0, cancelled.event):
            rest = deadline - time.monotonic()
            if cancelled.event.is_set():
                return None
            if rest <= 0:
                raise StartFailed(
                    "The release of another server on the same GPU is still under way",
                    "%vllm gpu shows who holds it",
                )
            locks.wait_for_releases(_uuids(chosen or baseline.gpus), rest, cancelled.event)
            baseline = self.probe.snapshot()
            chosen = _choose(self.spec, baseline)
        deadline = time.monotonic() + COMING_BACK
        while lacking := preflight.shortage(self.spec, self.environ, baseline, chosen):
            if time.monotonic() >= deadline:
                raise preflight.refusal(self.spec.name, lacking)
            if cancelled.event.wait(INTERVAL):
                return None
            baseline = self.probe.snapshot()
            chosen = _choose(self.spec, baseline)
        return GpuSelection(baseline, chosen)

    def _prepare(self, selection: GpuSelection) -> tuple[Prepared, LaunchRequest]:
        folder = ledger.create(self.spec.name)
        try:
            prepared, request = self._build_request(folder, selection, StartKind.COLD)
            ledger.write_record(folder.path, Record(**request.record))
        except BaseException:
            folder.discard()
            raise
        return prepared, request

    def _build_request(
        self, folder: Folder, selection: GpuSelection, kind: StartKind
    ) -> tuple[Prepared, LaunchRequest]:
        spec, command, (baseline, chosen) = self.spec, self.command, selection
        usable = _uuids(chosen or baseline.gpus)
        request = LaunchRequest(
            argv=list(command.argv),
            env=commands.environment(
                self.environ,
                spec,
                command.argv[0],
                command.endpoint,
                folder.id,
                folder.tmp,
                self._visible_devices(selection),
            ),
            cwd=spec.cwd,
            tmp=str(folder.tmp),
            folder=str(folder.path),
            log=str(folder.log),
            keep_log=str(folder.kept_log),
            locks=[str(path) for path in locks.lock_paths(usable)],
            record=self._record(folder, baseline, usable)._asdict(),
            keep=spec.keep or 0.0,
            handover=serialization.pack_owner(spec, command),
        )
        prepared = Prepared(
            folder=folder,
            verifier=LocalVerifier(self.probe, baseline, _uuids(chosen), folder.mark),
            gpus=usable,
            address=command.endpoint.address,
            port=command.endpoint.port,
            model=spec.model,
            downloads=Downloads(spec.model, spec.all_args, request.env),
            secrets=tuple(secret_values(request.env)),
            kind=kind,
        )
        return prepared, request

    def _visible_devices(self, selection: GpuSelection) -> str | None:
        """Return CUDA_VISIBLE_DEVICES in the form that this vLLM reads; None to leave it unchanged."""
        version = executable.version(self.command.argv[0])
        by_uuid = versions.reads_uuids(version)
        if selection.chosen:
            if not by_uuid and any(gpu.is_part for gpu in selection.chosen):
                raise InvalidOption(
                    f"vLLM {version} reads only indices in CUDA_VISIBLE_DEVICES, and a part of a GPU (MIG) has none. Install vLLM "
                    f"{'.'.join(map(str, versions.UUIDS))} or newer, or let the server take the first part: leave --gpus out."
                )
            return choice.cuda_visible_devices(selection.chosen, by_uuid=by_uuid)
        if by_uuid:
            return None
        return visible.without_uuids(selection.baseline.gpus, {**self.environ, **dict(self.spec.env)})

    def _record(self, folder: Folder, baseline: Snapshot, gpus: tuple[str, ...]) -> Record:
        spec, command = self.spec, self.command
        stop_grace, stop_patience = self.stop_times
        return Record(
            id=folder.id,
            name=spec.name,
            model=spec.model,
            args=mask_words(spec.args),
            url=command.endpoint.url,
            port=command.endpoint.port,
            gpus=list(gpus),
            chosen=spec.gpus is not None,
            baseline=gpu_json.pack(baseline),
            phase=Phase.STARTING,
            since=time.time(),
            place=list(machine.here()),
            kernel=list(processes.own_identity()),
            keep=spec.keep or 0.0,
            cluster=command.cluster,
            job=command.job,
            stop_grace=stop_grace,
            stop_patience=stop_patience,
        )


def start_guards(request: LaunchRequest) -> Guards:
    """Start a guard pair, which executes the request.

    Raises:
        StartFailed: the guards could not be started; the folders of ``request`` are removed then.
    """
    try:
        return GuardPair(request)
    except Exception as error:
        discard(request.folder, request.tmp, request.log)
        if not isinstance(error, OSError):
            raise
        if error.errno in files.NO_ROOM:
            raise unusable(error) from error
        hint = (
            "End some processes, or close some files"
            if error.errno in SHORT
            else f"{sys.executable or 'Python'} runs the guards: start the kernel with another Python"
        )
        raise StartFailed(f"The guards could not be started: {error.strerror or error}", hint) from error


def unusable(error: OSError) -> StartFailed:
    """Return the error for a state folder, or a folder in it, that cannot be used."""
    if error.errno in files.NO_ROOM:
        return StartFailed(f"The disk of {ledger.state_path()} is full: {error.strerror}", ledger.MAKE_ROOM)
    umask = processes.umask()
    if isinstance(error, PermissionError) and umask is not None and umask & stat.S_IRWXU:
        return StartFailed(
            f"A folder cannot be used: {error}",
            f"The umask {umask:04o} denies you access to the files that you make. Set another one: os.umask(0o077)",
        )
    reason = str(error).rstrip(".")
    hint = "%vllm doctor checks it" if "VLLM_MAGIC_HOME" in reason else "Mend that, or set VLLM_MAGIC_HOME"
    return StartFailed(f"A folder cannot be used: {reason}", hint)


def _choose(spec: ServerSpec, baseline: Snapshot) -> tuple[Gpu, ...]:
    if spec.gpus is None:
        return ()
    count = commands.gpu_count(spec.all_args)
    try:
        return choice.choose(spec.gpus, baseline, count, preflight.share(spec))
    except choice.ShortageError:  # memory may come back; `preflight` checks again, and has a better message
        return ()
    except ValueError as error:
        raise InvalidOption(str(error)) from None


def _uuids(gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    return tuple(gpu.uuid for gpu in gpus)
