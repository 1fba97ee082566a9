"""Whether a server has had no request for so long that it may be released (``--ttl``).

vLLM's counters say that, so a look at ``/health`` or at the counters themselves is no use of the server.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllm_magic.durations import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.api import Activity

LOOKS = 10  # in each time to live
SHORTEST, LONGEST = 1.0, 60.0  # seconds between two looks


class Idleness:
    """Judges one server, from the first `rest` on: that is when the time begins.

    Args:
        ttl: seconds without a request after which it is over.
        clock: as `time.monotonic`.

    Attributes:
        over: whether that time has passed.
    """

    def __init__(self, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.over = False
        self._ttl = ttl
        self._clock = clock
        self._served: float | None = None
        self._since = 0.0
        self._next = 0.0

    def rest(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, self._next - self._clock())

    def judge(self, activity: Activity | None) -> bool:
        """Take in a look at the server; True once it is idle. None, where it does not answer, never says so."""
        now = self._clock()
        pause = min(max(self._ttl / LOOKS, SHORTEST), LONGEST)
        if activity is not None and (activity.in_flight or activity.served != self._served):
            self._served, self._since = activity.served, now
        left = self._since + self._ttl - now
        self._next = now + (min(pause, left) if left > 0 else pause)
        self.over = activity is not None and left <= 0
        return self.over


def farewell(ttl: float | None) -> str:
    """What became of a server that was idle, in words."""
    return f"released after {told(ttl or 0.0)} without a request"
