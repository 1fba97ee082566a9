"""A server that another kernel has started, and that this kernel has taken over."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.engine.models.download import Downloads
from vllm_magic.errors import VllmMagicError
from vllm_magic.masking import secret_values
from vllm_magic.provisioning import local
from vllm_magic.provisioning.base import Launched, Prepared, Provisioner, StartKind
from vllm_magic.provisioning.standby import StandbySpec
from vllm_magic.release import gpu_json
from vllm_magic.release.local_verifier import LocalVerifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.ledger import Entry
    from vllm_magic.linux.eventfd import Cancellation


class AttachedProvisioner(Provisioner):
    """Takes over a server that runs.

    Args:
        entry: the entry of the server in the ledger.
        guards: the guards of the server, which have accepted this kernel.
        spec: the spec with which the first kernel started the server.
        command: the command of the server, with its address and key.
        probe: reads the GPUs.

    Raises:
        VllmMagicError: the server has no record.
    """

    from_the_start = False

    def __init__(
        self, entry: Entry, guards: Guards, spec: ServerSpec, command: Command, probe: Probe
    ) -> None:
        if entry.record is None:
            raise VllmMagicError(f"{entry.path} has no record.")
        record = entry.record
        self.command = command
        self.stop_grace, self.stop_patience = local.stop_times(spec, os.environ)
        self.stops_at_exit = not spec.keep
        self.standby = StandbySpec.of(spec, command.argv[0], os.environ)
        chosen = record.gpus if record.chosen else ()
        prepared = Prepared(
            folder=entry.folder,
            verifier=LocalVerifier(probe, gpu_json.unpack(record.baseline), chosen, entry.folder.mark),
            gpus=tuple(record.gpus),
            address=command.endpoint.address,
            port=command.endpoint.port,
            model=spec.model,
            downloads=Downloads(spec.model, spec.all_args, {**os.environ, **dict(spec.env)}),
            secrets=tuple(secret_values({**dict(spec.env), "VLLM_API_KEY": command.endpoint.api_key})),
            kind=StartKind.ATTACHED,
        )
        self._launched = Launched(prepared, guards)

    def launch(self, _: Cancellation, __: Callable[[str], None]) -> Launched:
        """See `Provisioner.launch`. The server runs already."""
        return self._launched

    def discard(self) -> None:
        """Disconnect from the guards. The server waits for a kernel again."""
        self._launched.guards.disconnect()
