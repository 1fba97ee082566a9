"""The two ways in which a server's life begins in a kernel: it is started, or taken over from a kernel that is gone."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic.engine.models.download import Downloads
from vllm_magic.errors import StartFailed, VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.folder import discard
from vllm_magic.lifecycle.events import News, StartKind
from vllm_magic.linux.files import NO_ROOM
from vllm_magic.masking import known
from vllm_magic.provisioning.launch import Prepared, check_proc, clear_way, furnish, unusable
from vllm_magic.provisioning.standby import Cast, Spare
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release import gpu_json
from vllm_magic.release.local_verifier import LocalVerifier

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.ledger import Entry
    from vllm_magic.lifecycle.events import Notice
    from vllm_magic.provisioning.launch import Way
    from vllm_magic.provisioning.standby_pool import Spares


FORK = "VLLM_WORKER_MULTIPROC_METHOD"
DROP_LIMIT = 5.0  # seconds for a spare that is of no use to be gone


class Fresh:
    """A start: what others left is swept first, since it may hold the memory that is needed.

    Args:
        spec: what was asked for.
        command: what to execute.
        environ: the kernel's environment.
        probe: looks at the GPUs.
        spares: may have one that becomes this server.
    """

    def __init__(
        self,
        spec: ServerSpec,
        command: Command,
        environ: Mapping[str, str],
        probe: Probe,
        spares: Spares | None = None,
    ) -> None:
        self._spec = spec
        self._command = command
        self._environ = environ
        self._probe = probe
        self._spares = spares

    @property
    def cast(self) -> Cast:
        """What a spare for starts like this one is made for."""
        return Cast.of(self._spec, self._command.argv[0], self._environ)

    def __call__(
        self, cancelled: threading.Event, notice: Callable[[Notice], None], cold_because: str = ""
    ) -> tuple[Prepared, Guards] | None:
        """Prepare the server, and start its guards, or take a spare's.

        Args:
            cancelled: set when nobody wants it any more.
            notice: is told what was swept.
            cold_because: why no spare is to be taken: the one that was did not become this server.

        Returns:
            What to attend, and the guards; None when cancelled.

        Raises:
            VllmMagicError: it cannot be started, and nothing of it is there.
        """
        check_proc()
        try:
            for swept in sweep(self._probe, far=False):
                notice(News(swept.text))
        except OSError as error:
            raise unusable(error) from error
        way = clear_way(self._spec, self._environ, self._probe, cancelled)
        if way is None:
            return None
        if way.baseline.gpus and (trouble := locks.trouble()):
            notice(News(f"{trouble}."))
        spare = cold_because or (self._spares.take(self.cast) if self._spares else "")
        return self._warm(way, spare) if isinstance(spare, Spare) else self._cold(way, spare)

    def _warm(self, way: Way, spare: Spare) -> tuple[Prepared, Guards]:
        try:
            prepared, order = furnish(
                self._spec, self._command, self._environ, self._probe, way, spare.folder
            )
        except BaseException:
            spare.drop()
            spare.wait_gone(DROP_LIMIT)
            raise
        # Everything is imported, and nothing of CUDA begun: vLLM itself says where that is not enough for a fork.
        if spare.become(order._replace(env={FORK: "fork", **order.env})):
            return prepared, spare.guards
        spare.wait_gone(DROP_LIMIT)
        return self._cold(way, spare.over)

    def _cold(self, way: Way, because: str) -> tuple[Prepared, Guards]:
        prepared, order = furnish(self._spec, self._command, self._environ, self._probe, way)
        try:
            return replace(prepared, cold_because=because), GuardPair(order)
        except OSError as error:
            discard(order.folder, order.tmp, order.log)
            if error.errno in NO_ROOM:
                raise unusable(error) from error
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
        baseline = gpu_json.unpack(record.baseline)
        verifier = LocalVerifier(probe, baseline, record.gpus if record.chosen else (), entry.folder.mark)
        secrets = tuple(known({**dict(spec.env), "VLLM_API_KEY": command.endpoint.api_key}))
        downloads = Downloads(spec.model, spec.all_args, {**os.environ, **dict(spec.env)})
        self._prepared = Prepared(
            entry.folder,
            verifier,
            tuple(record.gpus),
            command.endpoint.address,
            command.endpoint.port,
            spec.model,
            record.since,
            downloads,
            secrets,
            StartKind.ATTACHED,
        )
        self._guards = guards
        self._spec = spec
        self._executable = command.argv[0]

    @property
    def cast(self) -> Cast:
        """What a spare for starts like this one is made for, in this kernel."""
        return Cast.of(self._spec, self._executable, os.environ)

    def __call__(
        self, _: threading.Event, __: Callable[[Notice], None], ___: str = ""
    ) -> tuple[Prepared, Guards]:
        """Nothing is left to do."""
        return self._prepared, self._guards
