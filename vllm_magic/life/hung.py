"""Guards that hang after their kernel's end: stopped by a signal or a debugger, or deaf. They are ended, and nothing else.

Whoever ends them releases their server in their place, see `rescue`.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from vllm_magic.guard import visitor
from vllm_magic.ledger import Condition
from vllm_magic.linux import pidfd

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.ledger import Entry
    from vllm_magic.linux.processes import Identity

PATIENCE = 3.0  # seconds for which guards are stopped before they count as hung
EXIT_LIMIT = 10.0  # seconds for a guard to be gone after SIGKILL


def does_hang(entry: Entry) -> bool:
    """Whether the server's kernel is gone and its guards do nothing about it, as it is now.

    Guards that are not stopped are asked, which takes `visitor.ANSWER_LIMIT` seconds where they do not answer. Those that
    are at work on the release let nobody in, and have an end of their own.
    """
    if entry.condition is Condition.RELEASING:
        return not visitor.answers(entry.path)
    return entry.condition is Condition.HUNG


def end(entry: Entry) -> bool:
    """End the guards of a server whose kernel is gone, if they hang; whether they are gone now."""
    if entry.condition is Condition.HUNG and not stay_stopped(entry, PATIENCE):
        return False
    return does_hang(entry) and kill(entry.guards)


def stay_stopped(entry: Entry, seconds: float) -> bool:
    """Whether all guards that live are stopped, and stay so for a while; at once False where one is not."""
    deadline = time.monotonic() + seconds
    while entry.are_guards_stopped:
        rest = deadline - time.monotonic()
        if rest <= 0:
            return True
        pidfd.wait_for_any(entry.guards, min(rest, seconds / 10))
    return False


def kill(guards: Collection[Identity]) -> bool:
    """SIGKILL guards; whether they are gone. They are stopped first: none of them acts on another's end."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for one in guards:
            pidfd.send(one, number)
    return not pidfd.wait_for_all(guards, EXIT_LIMIT)
