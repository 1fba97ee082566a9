"""The result of a server's end: its release with the proof, and the error for the user, if there is one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption, ReleaseFailed, ServerFailed, StartFailed, VllmMagicError
from vllm_magic.guard.ladder import UNKNOWN_PID
from vllm_magic.guard.protocol import Ended, Why
from vllm_magic.ledger import MAKE_ROOM
from vllm_magic.linux import machine
from vllm_magic.linux.processes import Identity
from vllm_magic.release.result import EndedProcess, Proof, Release
from vllm_magic.release.verifier import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.guard.ladder import Outcome
    from vllm_magic.release.verifier import Verifier

MOST_LINES = 12  # lines of the log in an error


def release(
    server: str,
    why: Why,
    began: float,
    ended: Sequence[Ended | Outcome],
    verifier: Verifier,
    leader: Identity | None,
) -> Release:
    """Prove the release of a server after its processes were ended, and return the result.

    Args:
        server: the name of the server.
        why: the reason for its end.
        began: when the end began, by `time.monotonic`.
        ended: the reports of the guards, or the outcomes of `force_kill.kill_server`.
        verifier: the verifier, which has read the GPUs before the start.
        leader: the server's first process, or None.
    """
    rows = [row for report in ended for row in report.ended]
    left = [row for report in ended[-1:] for row in report.left]
    identities = {Identity(int(row[0]), int(row[1])) for row in rows + left}
    try:
        verdict = verifier.verify(identities, leader)
    except Exception as fault:  # noqa: BLE001 - the ended processes are reported, and a later check may prove the release
        note = f"A fault of vllm_magic: {type(fault).__name__}: {fault}. Please report it"
        verdict = Verdict(Proof.NONE, verified=False, vram=(), note=note, may_recheck=True)
    wrong = machine.proc_problem()  # then /proc does not show the processes of the server
    codes = [
        report.exit_code for report in ended if isinstance(report, Ended) and report.exit_code is not None
    ]
    return Release(
        server=server,
        why=why.value,
        seconds=round(max(0.0, time.monotonic() - began), 3),
        ended=(*(EndedProcess(*row) for row in rows), *verdict.elsewhere),
        left=tuple(EndedProcess(*row) for row in left),
        exit_code=codes[0] if codes else None,
        vram=verdict.vram,
        proof=verdict.proof,
        verified=verdict.verified and not left and not wrong,
        note=wrong or verdict.note,
        may_recheck=verdict.may_recheck,
        left_alone=verdict.left_alone,
    )


def without_proof(server: str, why: Why, began: float, note: str) -> Release:
    """Return the release of a server whose end could not be verified; a later check may prove it. Arguments as for `release`."""
    seconds = round(max(0.0, time.monotonic() - began), 3)
    return Release(server, why.value, seconds, (), (), None, (), Proof.NONE, False, note, may_recheck=True)


def error(
    release: Release,
    why: Why,
    failure: Failure | None,
    disk: str,
    *,
    asked: bool,
    was_ready: bool,
    fault: str = "",
) -> VllmMagicError | None:
    """Return the error for the end of a server; None for a proved release that the user asked for.

    Args:
        release: the release of the server.
        why: the reason for the end.
        failure: the cause of an unexpected end, if it is known.
        disk: a sentence if the disk of the log was full when the end began; else "".
        asked: whether a stop was requested.
        was_ready: whether the server was ready before.
        fault: the fault of vllm_magic, or of the guards, that ended the server; "" for none.
    """
    name = release.server
    if not release.verified:
        return not_released(release)
    if asked or why in (Why.ASKED, Why.IDLE):
        return None
    full = f" {disk}." if disk else ""
    if why in (Why.FAULT, Why.GUARD_GONE):
        what = (
            f"{fault} {name} was released." if fault else f"{name} was released because its guard was killed."
        )
        return VllmMagicError(f"{what}{full} Start it again.{release.in_brackets}")
    if failure is None:
        return VllmMagicError(
            f"{name} was released ({why.value}).{full} Start it again.{release.in_brackets}"
        )
    kind = ServerFailed if was_ready else StartFailed
    cause, hint = failure.cause, failure.hint
    if disk:  # the cause in the log was written before the disk was full
        cause, hint = f"{disk}, and the log lacks its end: {cause}", MAKE_ROOM
    return kind(cause, hint + release.in_brackets, failure.lines[-MOST_LINES:])


def failure_line(server: str, error: VllmMagicError) -> str:
    """Return a line about a server that failed while no call waited for it."""
    if isinstance(error, (StartFailed, InvalidOption)):
        return f"{server} did not start: {error}"
    return f"{server} has failed: {error}" if isinstance(error, ServerFailed) else str(error)


def not_released(release: Release) -> ReleaseFailed:
    """Return the error for a release that is not proved."""
    left = [(process.pid, process.name) for process in release.left]
    if left:
        names = ", ".join(f"{name} (pid {pid})" if pid != UNKNOWN_PID else name for pid, name in left)
        return ReleaseFailed(
            f"{release.server} is not released: SIGKILL did not end {names}. {release.note}", left
        )
    again = " Stop it again for another check." if release.may_recheck else ""
    return ReleaseFailed(f"{release.server} has ended, but is not released: {release.note}.{again}", left)
