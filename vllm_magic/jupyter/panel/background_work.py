"""The background work of a panel: each task runs in a thread of its own and ends with a result."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.display import views
from vllm_magic.jupyter.panel import form

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.doctor.findings import Finding
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.commands.settings import Settings
    from vllm_magic.jupyter.panel.form import Assessment
    from vllm_magic.jupyter.panel.messages import FormFields
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server

REAP = ["vllm-magic", "reap"]


@dataclass(frozen=True)
class Done:
    """The result of a task.

    Attributes:
        text: a message for the user; "" for none.
        wrong: whether the message is an error.
        chosen: the name of the server to show from now on; None for no change.
        assessment: the assessment of the form; None where the task made none.
        assessed: the form values that were assessed.
        message: a message for the views; None for none.
    """

    text: str = ""
    wrong: bool = False
    chosen: str | None = None
    assessment: Assessment | None = None
    assessed: FormFields | None = None
    message: dict[str, Any] | None = None


def run(work: Callable[[], Done]) -> Done:
    """Run a task and return its result; an exception becomes a result too."""
    try:
        return work()
    except VllmMagicError as error:
        return Done(str(error), wrong=True)
    except Exception as error:  # noqa: BLE001 - the user who clicked must see every fault, ours too
        return Done(f"A fault of vllm_magic: {type(error).__name__}: {error}. Please report it.", wrong=True)


class Work:
    """The tasks of a panel.

    Args:
        manager: the kernel's manager.
        settings: returns the settings for a start.
        grace: returns the grace period for a stop, in seconds; None for the default.
    """

    def __init__(
        self, manager: Manager, settings: Callable[[], Settings], grace: Callable[[], float | None]
    ) -> None:
        self._manager = manager
        self._settings = settings
        self.grace = grace

    def fields_of(self, server: Server) -> FormFields:
        """Return the form values that would start this server again."""
        return form.fields_of(server.spec, self._settings())

    def assess(self, fields: FormFields, now: Snapshot | None) -> Done:
        """Assess the start that the form describes."""
        return Done(assessment=form.assess(fields, self._settings(), now), assessed=fields)

    def start(self, fields: FormFields) -> Done:
        """Start the server that the form describes, without waiting until it is ready."""
        start = self._manager.start(form.spec(fields, self._settings()), wait=False)
        name = start.server.name
        return Done(f"{name} runs already, with the same options." if start.reused else "", chosen=name)

    def doctor(self) -> Done:
        """Run the doctor's survey, and return its report as a message for the views."""
        from vllm_magic.doctor import text
        from vllm_magic.doctor.survey import survey

        report = survey(self._manager.probe, self._settings().executable or None)
        found = [_finding(one) for one in report.findings]
        lines = text.facts(report)
        return Done(message={"kind": "doctor", "findings": found, "lines": lines})

    def reap(self, pids: tuple[int, ...]) -> Done:
        """Release what dead kernels left, or end the given processes, which nobody owns. Then run the survey again."""
        from vllm_magic.doctor import reap
        from vllm_magic.recovery.sweep import sweep_all

        probe = self._manager.probe
        try:
            if pids:
                lines = [reap.reap(one, probe).text for one in reap.find_candidates(pids)]
            else:
                lines = [one.text for one in sweep_all(probe)] or ["Nothing to reap."]
        except OSError as error:  # the state folder cannot be read, or is not private to this user
            raise VllmMagicError(str(error)) from None
        return Done(" ".join(lines), message=self.doctor().message)


def _finding(one: Finding) -> dict[str, Any]:
    """Return a finding as data; ``pids`` is for the panel's own button, null where the user has to type the command."""
    fields = shlex.split(one.command)
    pids = [int(word) for word in fields if word.isdigit()] if fields[:2] == REAP else None
    return {"what": one.what, "command": views.in_a_cell(one.command), "pids": pids}
