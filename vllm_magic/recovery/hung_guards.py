"""End guards that hang after their kernel's end: a signal or a debugger stopped them, or they do not answer.

This ends only the guards. The caller releases their server afterwards, see `force_kill`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllm_magic.guard import control_client
from vllm_magic.ledger import Condition
from vllm_magic.linux import pidfd
from vllm_magic.release import force_kill

if TYPE_CHECKING:
    from vllm_magic.ledger import Entry

STOPPED_LIMIT = 3.0  # seconds; guards that stay stopped for so long count as hung


def is_hung(entry: Entry) -> bool:
    """Whether the server's kernel is gone, and its guards are stopped or do not answer.

    If the guards do not answer, this takes `control_client.ANSWER_LIMIT` seconds. Guards that are busy with the release
    accept no connection; they do not count as hung, and end by themselves.
    """
    if entry.condition is Condition.RELEASING:
        return not control_client.answers(entry.path)
    return entry.condition is Condition.HUNG


def end(entry: Entry) -> bool:
    """End the guards of a server whose kernel is gone, if they hang. Return whether this ended them."""
    if entry.condition is Condition.HUNG and not stay_stopped(entry, STOPPED_LIMIT):
        return False
    return is_hung(entry) and force_kill.kill_guards(entry.guards)


def stay_stopped(entry: Entry, seconds: float) -> bool:
    """Whether all living guards stay stopped for ``seconds``; False as soon as one is not stopped."""
    deadline = time.monotonic() + seconds
    while entry.are_guards_stopped:
        rest = deadline - time.monotonic()
        if rest <= 0:
            return True
        pidfd.wait_for_any(entry.guards, min(rest, seconds / 10))
    return False
