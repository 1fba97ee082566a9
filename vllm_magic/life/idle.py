"""Whether anybody uses a server: for ``--ttl``, which releases one that nobody uses, and for ``--drain``.

vLLM's counters say that, so a look at ``/health`` or at the counters themselves is no use of the server. But they are as
they were when the engine ended its last step: a request that came in the middle of a long one is not in them, be it for
minutes. So somebody's connection is use too while it may wait for an answer:

- It has asked, and nothing of an answer was sent since.
- It has been quiet for longer than the server leaves an idle connection open (uvicorn's ``timeout_keep_alive``, 5 seconds
  unless VLLM_HTTP_TIMEOUT_KEEP_ALIVE says otherwise): so it is none, but a stream whose first token is not there yet.
- It carried data just now, which may be the beginning of such a stream or the end of an answer. It is taken for the former,
  unless the same connection has asked before and the counters have not changed: such a one polls, for health say.

A client that keeps its connection open, as the openai package's does, thus keeps a server for those 5 seconds, and one that
polls over the same connection for one poll. A connection that waits puts the end off and is no use of itself: once the
request is answered, the counters have it. A connection over which nothing ever came does not count.

Where the kernel does not say when a connection carried data, each counts for as long as it is there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.durations import told
from vllm_magic.linux import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.api import Activity, Api
    from vllm_magic.linux.connections import Connection

LOOKS = 10  # in each time to live
SHORTEST, LONGEST = 1.0, 60.0  # seconds between two looks
KEEP_ALIVE = 5.0  # seconds for which vLLM leaves an idle connection open (vllm/envs.py)
LATE = 1.0  # seconds after that in which it is closed


class Use(NamedTuple):
    """What a look has seen: the counters, None where the server does not say, and the connections."""

    activity: Activity | None
    connections: tuple[Connection, ...] = ()


def look(api: Api, port: int) -> Use:
    """Look at a server. Takes as long as its answer.

    The connections are looked at before the counters, since a request that is answered then is in these, and after them,
    since another one may have come meanwhile.
    """
    before = connections.established(port)
    activity = api.activity()
    return Use(activity, (*before, *connections.established(port)))


def keep_alive(environ: Mapping[str, str]) -> float:
    """Seconds for which a server with this environment leaves an idle connection open."""
    try:
        return float(int(environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "")))
    except ValueError:
        return KEEP_ALIVE


class Requests:
    """Judges whether a server has requests under way, from one look to the next.

    Args:
        keep_alive: seconds for which it leaves an idle connection open.
    """

    def __init__(self, keep_alive: float = KEEP_ALIVE) -> None:
        self._quiet = keep_alive + LATE
        self._served: float | None = None
        # Bytes that a connection had received when its request seemed to be answered, since it last waited.
        self._answered: dict[bytes, int | None] = {}

    def under_way(self, use: Use) -> bool | None:
        """Take in a look; None where the server does not say."""
        if use.activity is None:
            return None
        if use.activity.served != self._served:
            self._served, self._answered = use.activity.served, {}
        there = {one.name for one in use.connections}
        self._answered = {name: received for name, received in self._answered.items() if name in there}
        waits = [self._may_wait(one) for one in use.connections]
        return bool(use.activity.in_flight) or any(waits)

    def _may_wait(self, one: Connection) -> bool:
        if one.received == 0:
            return False
        if one.silent < one.mute or one.mute > self._quiet:
            self._answered.pop(one.name, None)
            return True
        return self._answered.setdefault(one.name, one.received) == one.received


class Idleness:
    """Judges one server, from the first `rest` on: that is when the time begins.

    Args:
        ttl: seconds without a request after which it is over.
        requests: judges whether there are requests under way.
        clock: as `time.monotonic`.

    Attributes:
        over: whether that time has passed.
    """

    def __init__(
        self, ttl: float, requests: Requests | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.over = False
        self._ttl = ttl
        self._requests = requests or Requests()
        self._clock = clock
        self._served: float | None = None
        self._since = 0.0
        self._next = 0.0

    def rest(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, self._next - self._clock())

    def judge(self, use: Use) -> bool:
        """Take in a look at the server; True once it is idle, and never where the server does not say what it does."""
        now = self._clock()
        pause = min(max(self._ttl / LOOKS, SHORTEST), LONGEST)
        activity, waits = use.activity, self._requests.under_way(use)
        if activity is not None and (activity.in_flight or activity.served != self._served):
            self._served, self._since = activity.served, now
        left = self._since + self._ttl - now
        self._next = now + (min(pause, left) if left > 0 else SHORTEST if waits else pause)
        self.over = waits is False and left <= 0
        return self.over


def farewell(ttl: float | None) -> str:
    """What became of a server that was idle, in words."""
    return f"released after {told(ttl or 0.0)} without a request"
