"""A server that is started on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.children import flag_reading
from vllm_magic.engine import command as commands
from vllm_magic.engine import executable, versions
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.start_checks import checks
from vllm_magic.gpu import locks
from vllm_magic.guard.ladder import GRACE, PATIENCE
from vllm_magic.provisioning.base import Launched, Provisioner
from vllm_magic.provisioning.launch import Preparation, start_guards
from vllm_magic.provisioning.standby import StandbySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.protocol import LaunchRequest
    from vllm_magic.ledger import Folder
    from vllm_magic.linux.eventfd import Cancellation
    from vllm_magic.provisioning.base import Prepared
    from vllm_magic.provisioning.launch import GpuSelection


def stop_times(spec: ServerSpec, environ: Mapping[str, str]) -> tuple[float, float]:
    """Return the seconds from SIGTERM to SIGKILL for this server, and the same if SIGTERM shows no effect at all.

    Args:
        spec: the server.
        environ: the kernel's environment.
    """
    cleanup = commands.cleanup_timeout({**environ, **dict(spec.env)})
    own = min(commands.shutdown_timeout(spec.all_args) + cleanup, durations.MOST)
    return GRACE + own, PATIENCE + own


_shown_notes: set[str] = set()  # what need not be said again in this kernel


def _version_note(path: str) -> str:
    """Return what a user should know of the version of this vLLM; "" for nothing, or if it was said before."""
    table = flag_table.load(path)
    note = versions.note(table.version if table else executable.version(path))
    if note in _shown_notes:
        return ""
    _shown_notes.add(note)
    return note


class LocalProvisioner(Provisioner):
    """Starts a server on this machine.

    Args:
        spec: the server.
        environ: the kernel's environment.
        probe: reads the GPUs.

    Raises:
        VllmMagicError: an option is not valid, vLLM is not found, or the port is taken.
    """

    standby: StandbySpec

    def __init__(self, spec: ServerSpec, environ: Mapping[str, str], probe: Probe) -> None:
        path = executable.find(spec.executable)
        checks.check(spec, environ, path)
        self.command = commands.build(spec)
        flag_reading.table(path)  # begins to read the flags, for the next start
        self.stop_grace, self.stop_patience = stop_times(spec, environ)
        self.stops_at_exit = not spec.keep
        self.standby = StandbySpec.of(spec, path, environ)
        self._preparation = Preparation(
            spec, self.command, (self.stop_grace, self.stop_patience), environ, probe
        )

    def launch(self, cancelled: Cancellation, news: Callable[[str], None]) -> Launched | None:
        """See `Provisioner.launch`."""
        selection = self.select_gpus(cancelled, news)
        return None if selection is None else self.execute(selection)

    def select_gpus(self, cancelled: Cancellation, news: Callable[[str], None]) -> GpuSelection | None:
        """Wait until no release is under way on the GPUs, and choose GPUs; return None when cancelled. Errors as `launch`."""
        selection = self._preparation.select_gpus(cancelled)
        if selection is not None and selection.baseline.gpus and (problem := locks.lock_problem()):
            news(f"{problem}.")
        if selection is not None and (note := _version_note(self.command.argv[0])):
            news(note)
        return selection

    def prepare(
        self, selection: GpuSelection, standby: Folder | None = None
    ) -> tuple[Prepared, LaunchRequest]:
        """Make the private folder with its record, or use that of a standby; see `Preparation.prepare`."""
        return self._preparation.prepare(selection, standby)

    def execute(self, selection: GpuSelection, cold_because: str = "") -> Launched:
        """Start the guards, which execute vLLM. Errors as for `launch`.

        Args:
            selection: the result of `select_gpus`.
            cold_because: why no standby became this server.
        """
        prepared, request = self.prepare(selection)
        return Launched(replace(prepared, cold_because=cold_because), start_guards(request))
