"""Determine whether a server is in use: ``--ttl`` releases an unused server, and ``--drain`` waits until a server is unused.

vLLM's counters show the use, so requests to ``/health`` or for the counters themselves do not count. But
the counters date from the end of the engine's last step: a request that comes during a long step may be
missing from them for minutes. So a client's connection also counts as use while the client may be waiting for
an answer. There are three such cases:

- The client has sent a request, and the server has sent nothing since.
- The server has sent nothing for longer than it leaves an idle connection open (uvicorn's
  ``timeout_keep_alive``, 5 seconds unless VLLM_HTTP_TIMEOUT_KEEP_ALIVE says otherwise). So the connection is
  not idle, but a stream whose first token has not come yet.
- The connection carried data just now. This may be the beginning of such a stream or the end of an answer. It
  is taken for the beginning of a stream, unless the same connection has sent a request of the same length before
  and the counters have not changed since: such a client only polls, for example ``/health``.

So a client that keeps its connection open, as the openai package does, keeps a server in use for those 5 seconds. A
client that polls over one connection keeps a server in use for one poll. A waiting connection only delays the end of
the server. The time without a request does not start again: once the request is answered, the counters
include it. A connection over which the client never sent anything does not count.

Where the kernel does not say when a connection carried data, each connection counts while it exists.

Any process on this machine can connect, and without the server's key send the first half of a request. vLLM then waits for
the rest. Such a connection looks like one that waits for an answer, unless its bytes are fewer than those of any request. So
a connection counts for `WAIT_LIMIT` seconds at most while the counters do not change, which is longer than any step of an
engine. A client that connects again and again still keeps a server, and so does a client that polls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import connections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.client.health import Api
    from vllm_magic.engine.client.metrics import Activity
    from vllm_magic.linux.connections import TcpConnection

READINGS = 10  # number of readings in one time to live
SHORTEST, LONGEST = 1.0, 60.0  # seconds between two readings
KEEP_ALIVE = 5.0  # seconds for which vLLM leaves an idle connection open (vllm/envs.py)
WAIT_LIMIT = 600.0  # seconds for which a connection counts while the counters show nothing
SHORTEST_REQUEST = (
    40  # bytes; a request such as "POST /score HTTP/1.0" with its content and the length of that is longer
)
CLOSE_LIMIT = 1.0  # seconds after `KEEP_ALIVE` in which vLLM closes the connection


class ServerUse(NamedTuple):
    """One reading of a server's use: the counters (None if the server does not report them) and the connections."""

    activity: Activity | None
    connections: tuple[TcpConnection, ...] = ()


class _Answered(NamedTuple):
    """A connection whose last request seems answered.

    Attributes:
        received: the bytes received so far; None if the kernel does not report it.
        length: the greatest length of each of its requests, in bytes, if all have the same length.
        may_wait: whether the last request may be one whose answer has only begun.
    """

    received: int | None
    length: int
    may_wait: bool

    def after(self, received: int | None) -> _Answered:
        """Return the same connection at a later reading. A client that polls sends requests of one length."""
        if received is None or self.received is None or received == self.received:
            return self
        grown = received - self.received
        common = math.gcd(self.length, grown)
        if common >= SHORTEST_REQUEST:
            return _Answered(received, common, may_wait=False)
        return _Answered(received, grown, may_wait=True)


def read_use(api: Api, port: int) -> ServerUse:
    """Read the server's use. This takes as long as the server's answer.

    The connections are read twice. They are read before the counters, since a request that is answered
    between the two is in the counters; and again after the counters, since another request may have come
    meanwhile. If they cannot be read in time, nothing is known of the server's use.
    """
    try:
        before = connections.established(port)
        activity = api.activity()
        return ServerUse(activity, (*before, *connections.established(port)))
    except TimeoutError:
        return ServerUse(None)


def keep_alive(environ: Mapping[str, str]) -> float:
    """Return the seconds for which a server with this environment leaves an idle connection open."""
    try:
        return float(int(environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "")))
    except ValueError:
        return KEEP_ALIVE


class Requests:
    """Determines from each reading whether a server has requests under way.

    It has no clock: the caller passes the time of each reading, by `time.monotonic`.

    Args:
        keep_alive: seconds for which the server leaves an idle connection open.
    """

    def __init__(self, keep_alive: float = KEEP_ALIVE) -> None:
        self._quiet = keep_alive + CLOSE_LIMIT
        self._served: float | None = None
        self._answered: dict[bytes, _Answered] = {}  # by connection, since it last waited
        self._waiting: dict[bytes, float] = {}  # by connection: since when it may wait

    def under_way(self, use: ServerUse, at: float) -> bool | None:
        """Return whether requests were under way at the time ``at`` of this reading; None if the server does not report its counters."""
        if use.activity is None:
            return None
        if use.activity.served != self._served:
            self._served, self._answered, self._waiting = use.activity.served, {}, {}
        open_ = {connection.name for connection in use.connections}
        self._answered = {name: before for name, before in self._answered.items() if name in open_}
        waiting = {connection.name for connection in use.connections if self._may_wait(connection)}
        self._waiting = {name: self._waiting.get(name, at) for name in waiting}
        if use.activity.in_flight:
            self._waiting = {}
            return True
        return any(at - since <= WAIT_LIMIT for since in self._waiting.values())

    def _may_wait(self, connection: TcpConnection) -> bool:
        """Whether the client of this connection may be waiting for an answer."""
        name, received = connection.name, connection.received
        if received is not None and received < SHORTEST_REQUEST:
            return False
        if connection.since_received < connection.since_sent or connection.since_sent > self._quiet:
            self._answered.pop(name, None)
            return True
        before = self._answered.get(name)
        now = before.after(received) if before else _Answered(received, received or 0, may_wait=True)
        self._answered[name] = now
        return now.may_wait


class Idleness:
    """Determines whether one server is idle. The time without requests begins with the first reading that has counters.

    It has no clock either.

    Args:
        ttl: seconds without a request after which the server is idle.
        requests: determines whether requests are under way.

    Attributes:
        over: whether the server was idle at the last reading.
        next_reading: when the next reading is due, by `time.monotonic`; 0.0 before the first one.
    """

    def __init__(self, ttl: float, requests: Requests | None = None) -> None:
        self.over = False
        self.next_reading = 0.0
        self._ttl = ttl
        self._requests = requests or Requests()
        self._served: float | None = None
        self._since = 0.0

    def observe(self, use: ServerUse, at: float) -> bool:
        """Return whether the server was idle at the time ``at`` of this reading; False if the counters are not known."""
        pause = min(max(self._ttl / READINGS, SHORTEST), LONGEST)
        activity, waits = use.activity, self._requests.under_way(use, at)
        if activity is not None and (activity.in_flight or activity.served != self._served):
            self._served, self._since = activity.served, at
        left = self._since + self._ttl - at
        self.next_reading = at + (min(pause, left) if left > 0 else SHORTEST if waits else pause)
        self.over = waits is False and left <= 0
        return self.over
