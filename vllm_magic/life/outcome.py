"""What the end of a server means to whoever used it: an error, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine import failures
from vllm_magic.errors import ReleaseFailed, StartFailed, VllmMagicError
from vllm_magic.guard.protocol import Why

if TYPE_CHECKING:
    from vllm_magic.life.notices import Over
    from vllm_magic.release import Release

TELLING_LINES = 12  # of the log, kept with a failure


def error(over: Over, *, asked: bool, was_ready: bool) -> VllmMagicError | None:
    """Why this end is a failure; None for a release that was asked for and is proved.

    Args:
        over: the end.
        asked: whether somebody had asked for it.
        was_ready: whether the server had answered before.
    """
    name = over.release.server
    if not over.release.verified:
        return _not_released(over.release)
    if asked or over.why in (Why.ASKED, Why.IDLE):
        return None
    if over.why is Why.GUARD_GONE:
        return VllmMagicError(f"{name} was released because its guard was killed. Start it again.")
    if over.why is not Why.LEADER_ENDED:
        return VllmMagicError(f"{name} was released ({over.why.value}). Start it again.")
    if was_ready:
        ending = failures.ending(over.release.exit_code)
        return VllmMagicError(f"{name} ended by itself {ending}. See %vllm logs {name}.")
    failure = failures.explain(over.log_tail, over.release.exit_code)
    return StartFailed(failure.cause, failure.hint, failure.lines[-TELLING_LINES:])


def _not_released(release: Release) -> ReleaseFailed:
    left = [(process.pid, process.name) for process in release.left]
    if left:
        names = ", ".join(f"{name} (pid {pid})" for pid, name in left)
        return ReleaseFailed(
            f"{release.server} is not released: SIGKILL did not end {names}. {release.note}", left
        )
    return ReleaseFailed(f"{release.server} has ended, but is not released: {release.note}.", left)
