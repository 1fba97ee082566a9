"""Stop a server of another kernel through the control socket of its guards, with the same proof."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.errors import VllmMagicError, reason
from vllm_magic.guard.control_client import ANSWER_LIMIT, ControlClient
from vllm_magic.guard.ladder import GUARD_LIMIT
from vllm_magic.guard.protocol import Ended, Why
from vllm_magic.linux import pidfd
from vllm_magic.release import force_kill, from_record, report, unproved

if TYPE_CHECKING:
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.ladder import Outcome
    from vllm_magic.guard.record import Record
    from vllm_magic.ledger import Entry
    from vllm_magic.release.result import Release

EXIT_LIMIT = 10.0  # seconds for the guards to end after their last message


def stop(entry: Entry, record: Record, probe: Probe, grace: float, patience: float) -> Release:
    """Have the guards release their server, wait until the guards are gone, and prove the release.

    Args:
        entry: the server; its guards live.
        record: the record of the entry.
        probe: reads the GPUs.
        grace: seconds from SIGTERM to SIGKILL.
        patience: the same, if SIGTERM shows no effect at all.

    Raises:
        VllmMagicError: the guards cannot be reached, or do not end.
        ReleaseFailed: a process did not end, or memory did not come back.
    """
    began = time.monotonic()
    verifier = from_record.verifier(record, entry.folder.mark, probe, silence=GUARD_LIMIT)
    known = [process.identity for process in entry.processes]
    verifier.observe_before_stop(known, in_a_hurry=False)
    ended: list[Ended | Outcome] = [*_stop_guards(entry, record, grace, patience)]
    if not ended:  # no guard lives any more
        ended = [force_kill.kill_server(entry.folder, entry.leader, known)]
        ledger.add_known_processes(entry.path, ended[-1].left)
        if not ended[-1].left:
            entry.folder.clear()
    release = report.release(record.name, Why.ASKED, began, ended, verifier, entry.leader)
    release = replace(release, begun_before=record.leader is not None and not release.ended)
    unproved.update(entry.leader, verifier, release)
    if not release.verified:
        raise report.not_released(release)
    return release


def _stop_guards(entry: Entry, record: Record, grace: float, patience: float) -> list[Ended]:
    """Send "stop" to the guards, wait until they are gone, and return their reports.

    Guards that do not answer or do not finish are killed, as the kernel does with its own guards.

    Raises:
        VllmMagicError: they cannot be reached, or SIGKILL does not end them.
    """
    ended: list[Ended] = []
    limit = grace + GUARD_LIMIT  # for a release that began before this stop
    try:
        client = ControlClient(entry.path)
    except OSError as error:
        # The guards may have ended since the record was read, or they are releasing the server and refuse connections.
        unknown = not record.outer and not record.inner
        limit = limit if isinstance(error, ConnectionRefusedError) else EXIT_LIMIT
        if unknown or (pidfd.wait_for_all(entry.guards, limit) and not entry.are_guards_stopped):
            raise VllmMagicError(
                f"The guards of {record.name} cannot be reached ({reason(error)}). See vllm-magic doctor."
            ) from None
        limit = 0.0
    else:
        with contextlib.closing(client):
            try:
                client.stop(grace, patience)
                _collect_reports(client, grace + GUARD_LIMIT, ended)
            except TimeoutError:
                limit = 0.0
            except OSError:
                pass  # the guards have ended, or had begun the release before they accepted the connection
        limit = EXIT_LIMIT if ended else 0.0 if entry.are_guards_stopped else limit
    if pidfd.wait_for_all(entry.guards, limit) and not force_kill.kill_guards(entry.guards):
        raise VllmMagicError(f"The guards of {record.name} do not end. See vllm-magic doctor.")
    return ended


def _collect_reports(client: ControlClient, limit: float, ended: list[Ended]) -> None:
    """Add the reports of the guards to ``ended`` until they close the connection.

    Raises:
        TimeoutError: the guards did not answer, or are not done after ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    rest = ANSWER_LIMIT
    while (messages := client.receive(rest)) is not None:
        ended += [message for message in messages if isinstance(message, Ended)]
        rest = max(0.01, deadline - time.monotonic())
