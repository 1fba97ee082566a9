"""The two ways in which a server's life begins in a kernel: it is started, or taken over from a kernel that is gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.engine.download import Downloads
from vllm_magic.errors import StartFailed, VllmMagicError
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.folder import discard
from vllm_magic.life import handover
from vllm_magic.life.notices import News
from vllm_magic.life.preparation import Prepared, prepare
from vllm_magic.life.proof import Witness
from vllm_magic.life.sweep import sweep
from vllm_magic.masking import known

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.ledger import Entry
    from vllm_magic.life.notices import Notice


class Fresh:
    """A start: what others left is swept first, since it may hold the memory that is needed."""

    def __init__(self, spec: ServerSpec, command: Command, environ: Mapping[str, str], probe: Probe) -> None:
        self._spec = spec
        self._command = command
        self._environ = environ
        self._probe = probe

    def __call__(
        self, cancelled: threading.Event, notice: Callable[[Notice], None]
    ) -> tuple[Prepared, Guards] | None:
        """Prepare the server and start its guards.

        Raises:
            VllmMagicError: it cannot be started, and nothing of it is there.
        """
        try:
            for swept in sweep(self._probe):
                notice(News(swept.text))
        except OSError as error:
            raise StartFailed(
                f"The state folder cannot be used: {error}", "Mend that, or set VLLM_MAGIC_HOME"
            ) from error
        made = prepare(self._spec, self._command, self._environ, self._probe, cancelled)
        if made is None:
            return None
        prepared, order = made
        try:
            return prepared, GuardPair(order)
        except OSError as error:
            discard(order.folder, order.tmp, order.log)
            raise StartFailed(
                f"The guards could not be started: {error.strerror}", "Free what is short"
            ) from error


class Attached:
    """A server whose guards have accepted this kernel as theirs."""

    def __init__(
        self, entry: Entry, guards: Guards, spec: ServerSpec, command: Command, probe: Probe
    ) -> None:
        if entry.record is None:
            raise VllmMagicError(f"{entry.path} has no record.")
        record = entry.record
        baseline = handover.unpack_gpus(record.baseline)
        witness = Witness(probe, baseline, record.gpus if record.chosen else (), entry.folder.mark)
        secrets = tuple(known({**dict(spec.env), "VLLM_API_KEY": command.api_key}))
        downloads = Downloads(spec.model, spec.all_args, {**os.environ, **dict(spec.env)})
        self._prepared = Prepared(
            entry.folder,
            witness,
            tuple(record.gpus),
            record.port,
            spec.model,
            record.since,
            downloads,
            secrets,
        )
        self._guards = guards

    def __call__(self, _: threading.Event, __: Callable[[Notice], None]) -> tuple[Prepared, Guards]:
        """Nothing is left to do."""
        return self._prepared, self._guards
