"""The work of a panel that takes its time: each is done in a thread of its own, and says in the end what came of it."""

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
    from vllm_magic.jupyter.panel.messages import Words
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server

REAP = ["vllm-magic", "reap"]


@dataclass(frozen=True)
class Done:
    """What came of it.

    Attributes:
        text: for a person; "" for nothing.
        wrong: whether that is an error.
        chosen: the server to show now; None for no change.
        judged: what is to be said of the form.
        judged_of: the words that were judged.
        message: for the views.
    """

    text: str = ""
    wrong: bool = False
    chosen: str | None = None
    judged: Assessment | None = None
    judged_of: Words | None = None
    message: dict[str, Any] | None = None


def run(work: Callable[[], Done]) -> Done:
    """Do it; an error is what came of it, too."""
    try:
        return work()
    except VllmMagicError as error:
        return Done(str(error), wrong=True)
    except Exception as error:  # noqa: BLE001 - whoever clicked must hear of any fault, ours too
        return Done(f"A fault of vllm_magic: {type(error).__name__}: {error}. Please report it.", wrong=True)


class Work:
    """All of it.

    Args:
        manager: the kernel's.
        settings: of each start.
        grace: of each stop, in seconds; None for what is usual.
    """

    def __init__(
        self, manager: Manager, settings: Callable[[], Settings], grace: Callable[[], float | None]
    ) -> None:
        self._manager = manager
        self._settings = settings
        self.grace = grace

    def said(self, server: Server) -> Words:
        """The words that would start this server once more."""
        return form.said(server.spec, self._settings())

    def judge(self, words: Words, now: Snapshot | None) -> Done:
        """Look at what the form would start."""
        return Done(judged=form.judge(words, self._settings(), now), judged_of=words)

    def start(self, words: Words) -> Done:
        """Start what the form says; it is not waited for."""
        start = self._manager.start(form.spec(words, self._settings()), wait=False)
        name = start.server.name
        return Done(f"{name} runs already, with the same options." if start.reused else "", chosen=name)

    def doctor(self) -> Done:
        """Look at everything once."""
        from vllm_magic.doctor import text
        from vllm_magic.doctor.survey import survey

        report = survey(self._manager.probe, self._settings().executable or None)
        found = [_finding(one) for one in report.findings]
        lines = text.facts(report)
        return Done(message={"kind": "doctor", "findings": found, "lines": lines})

    def reap(self, pids: tuple[int, ...]) -> Done:
        """Release what dead kernels left; with pids, end these, which nobody owns. Then look again."""
        from vllm_magic.doctor import reap
        from vllm_magic.recovery.sweep import sweep_all

        probe = self._manager.probe
        try:
            if pids:
                told = [reap.told(reap.reap(one, probe)) for one in reap.judge_all(pids)]
            else:
                told = [one.text for one in sweep_all(probe)] or ["Nothing to reap."]
        except OSError as error:  # the state folder is not ours alone
            raise VllmMagicError(str(error)) from None
        return Done(" ".join(told), message=self.doctor().message)


def _finding(one: Finding) -> dict[str, Any]:
    """A finding; ``pids`` is what the panel's own button reaps, null where a person has to type the command."""
    said = shlex.split(one.command)
    pids = [int(word) for word in said if word.isdigit()] if said[:2] == REAP else None
    return {"what": one.what, "command": views.in_a_cell(one.command), "pids": pids}
