"""Decide whether a start that failed is repeated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import Why

if TYPE_CHECKING:
    from vllm_magic.lifecycle.events import Over


def is_due(over: Over, *, was_ready: bool, is_stop_requested: bool) -> bool:
    """Whether the same start is likely to succeed now: the failure was transient, and the release is proved.

    Args:
        over: the end of the first attempt.
        was_ready: whether the server was ready before its end.
        is_stop_requested: whether a stop was requested.
    """
    failed_by_itself = over.why is Why.LEADER_ENDED and not was_ready and not is_stop_requested
    is_transient = over.failure is not None and over.failure.transient
    return failed_by_itself and is_transient and over.release.verified
