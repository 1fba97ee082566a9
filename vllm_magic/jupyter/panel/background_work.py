"""The background work of a panel: each task runs in a thread of its own, and returns a result."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.display import views
from vllm_magic.jupyter.panel import form
from vllm_magic.lifecycle import faults

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vllm_magic.doctor.findings import Finding
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.commands.settings import Settings
    from vllm_magic.jupyter.panel.form import Assessment
    from vllm_magic.jupyter.panel.messages import FormFields
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server

REAP_COMMAND = ["vllm-magic", "reap"]


@dataclass(frozen=True)
class WorkResult:
    """The result of a task.

    Attributes:
        text: a message for the user; "" for none.
        wrong: whether the message is an error.
        chosen: the name of the server to show from now on; None for no change.
        assessment: the assessment of the form; None if the task made none.
        assessed: the form values that were assessed.
        message: a message for the views; None for none.
    """

    text: str = ""
    wrong: bool = False
    chosen: str | None = None
    assessment: Assessment | None = None
    assessed: FormFields | None = None
    message: dict[str, Any] | None = None


def run(work: Callable[[], WorkResult]) -> WorkResult:
    """Run a task and return its result; an exception becomes a result too."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the user must see every error, also an error in vllm_magic itself
        return WorkResult(faults.text(error), wrong=True)


class Work:
    """The tasks of a panel.

    Args:
        manager: the manager of the kernel.
        settings: returns the settings for a start.
        grace: returns the grace period for a stop, in seconds; None for the default.
        session: the session to which the started servers belong; None for the whole process.
    """

    def __init__(
        self,
        manager: Manager,
        settings: Callable[[], Settings],
        grace: Callable[[], float | None],
        session: threading.Thread | None = None,
    ) -> None:
        self._manager = manager
        self._session = session
        self._settings = settings
        self.grace = grace

    def fields_of(self, server: Server) -> FormFields:
        """Return the form values that would start this server again."""
        return form.fields_of(server.spec, self._settings())

    def assess(self, fields: FormFields, snapshot: Snapshot | None) -> WorkResult:
        """Assess the start that the form describes."""
        ports = [server.port for server in self._manager.servers().values()]
        return WorkResult(assessment=form.assess(fields, self._settings(), snapshot, ports), assessed=fields)

    def start(self, fields: FormFields) -> WorkResult:
        """Start the server that the form describes, without waiting until it is ready."""
        start = self._manager.start(form.spec(fields, self._settings()), wait=False, session=self._session)
        name = start.server.name
        return WorkResult(f"{name} runs already, with the same options." if start.reused else "", chosen=name)

    def doctor(self) -> WorkResult:
        """Examine the machine, and return the report as a message for the views."""
        from vllm_magic.doctor import text
        from vllm_magic.doctor.survey import survey

        report = survey(self._manager.probe, self._settings().executable or None)
        findings = [_finding_data(finding) for finding in report.findings]
        return WorkResult(message={"kind": "doctor", "findings": findings, "lines": text.facts(report)})

    def reap(self, pids: tuple[int, ...]) -> WorkResult:
        """End these processes, which nobody owns; for (), release the servers that dead kernels left. Then examine the machine again."""
        from vllm_magic.doctor import reap
        from vllm_magic.recovery.sweep import sweep_all

        probe = self._manager.probe
        try:
            if pids:
                lines = [reap.reap(candidate, probe).text for candidate in reap.find_candidates(pids)]
            else:
                lines = [swept.text for swept in sweep_all(probe)] or ["Nothing to reap."]
        except OSError as error:  # the state folder cannot be read, or is not private to this user
            raise VllmMagicError(str(error)) from None
        return WorkResult(" ".join(lines), message=self.doctor().message)


def _finding_data(finding: Finding) -> dict[str, Any]:
    """Return a finding for the views. Its button ends ``pids``; if they are null, there is no button, and the user types the command."""
    args = shlex.split(finding.command)
    pids = [int(arg) for arg in args if arg.isdigit()] if args[:2] == REAP_COMMAND else None
    return {"what": finding.what, "command": views.in_a_cell(finding.command), "pids": pids}
