"""vLLM's HTTP API, as far as a server's life needs it: readiness, requests in flight, and whether there were any."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from vllm_magic.engine import metrics

if TYPE_CHECKING:
    import httpx

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.metrics import Metrics

ANSWER_LIMIT = 5.0  # seconds
MOST = 2**22  # bytes of an answer; the numbers of a server with 16 engines take a tenth of that
HEALTH_LIMIT = 1.0  # seconds, also for a look that recurs; whoever waits for a server must hear of other things meanwhile
_IN_FLIGHT = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? ([\d.eE+]+)$", re.MULTILINE)
# Each request adds to one of these; what nobody asked for (health checks, /metrics, warm-up) to none.
_SERVED = re.compile(
    r"^vllm:(?:request_success|prompt_tokens|generation_tokens)_total(?:\{.*\})? ([\d.eE+]+)$", re.MULTILINE
)


class Activity(NamedTuple):
    """What a server does and has done: requests ``in_flight``, and a number ``served`` that each request raises."""

    in_flight: int
    served: float


class Api:
    """A client for one server. For one thread; close it when done."""

    def __init__(self, command: Command) -> None:
        self._address = (urlsplit(command.url).hostname or "", command.port)
        self._command = command
        self._made: httpx.Client | None = None

    def open(self) -> None:
        """Make the client ready; the first time imports httpx, which is better done while the server starts."""
        import httpx

        if self._made is None:
            # trust_env: a proxy from the environment has no business between a notebook and its own server.
            # verify: the certificate of a server on this machine is made out to another name. (Where there is none, this
            # spares httpx the reading of all authorities.)
            self._made = httpx.Client(base_url=self._command.url, trust_env=False, verify=False)  # noqa: S501

    def is_ready(self) -> bool:
        """Whether ``GET /health`` answers 200. Costs next to nothing while nobody listens."""
        return self._accepts() and self._get("/health", HEALTH_LIMIT) is not None

    def requests_in_flight(self) -> int | None:
        """Requests that run or wait, from ``/metrics``; None when the server does not say."""
        text = self._get("/metrics")
        return None if text is None else count_in_flight(text)

    def activity(self) -> Activity | None:
        """What it does and has done, from ``/metrics``; None when the server does not say."""
        text = self._get("/metrics", HEALTH_LIMIT)
        return None if text is None else activity(text)

    def is_sleeping(self) -> bool | None:
        """Whether it is in sleep mode; None when the server does not say, as without its development routes."""
        import json

        text = self._get("/is_sleeping")
        try:
            said = json.loads(text or "")["is_sleeping"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return said if isinstance(said, bool) else None

    def post(self, path: str, body: object = None, limit: float = ANSWER_LIMIT) -> int | None:
        """The status of the answer to a ``POST``; None when there is none within ``limit`` seconds."""
        import httpx

        self.open()
        assert self._made is not None  # noqa: S101 - opened above
        try:
            return self._made.post(path, json=body, timeout=limit).status_code
        except httpx.HTTPError:
            return None

    def metrics(self) -> Metrics | None:
        """What it does and has done, in all that it counts; None when the server does not say."""
        text = self._get("/metrics")
        return None if text is None else metrics.parse(text)

    def close(self) -> None:
        """Close the connections, which would hold a stopping server up."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _accepts(self) -> bool:
        try:
            socket.create_connection(self._address, timeout=1.0).close()
        except OSError:
            return False
        return True

    def _get(self, path: str, limit: float = ANSWER_LIMIT) -> str | None:
        import httpx

        self.open()
        assert self._made is not None  # noqa: S101 - opened above
        deadline, data = time.monotonic() + limit, b""
        try:
            with self._made.stream("GET", path, timeout=limit) as answer:
                for piece in answer.iter_bytes() if answer.status_code == httpx.codes.OK else ():
                    data += piece
                    if (
                        len(data) > MOST or time.monotonic() > deadline
                    ):  # whoever it is, it is no server of vLLM's
                        return None
        except httpx.HTTPError:
            return None
        return data.decode("utf-8", "replace") if answer.status_code == httpx.codes.OK else None


def count_in_flight(text: str) -> int | None:
    """The sum of running and waiting requests of all engines in a Prometheus text; None if it has none."""
    counts = _IN_FLIGHT.findall(text)
    return int(sum(map(float, counts))) if counts else None


def activity(text: str) -> Activity | None:
    """The same of all engines in a Prometheus text; None if it has no counters."""
    in_flight = count_in_flight(text)
    served = _SERVED.findall(text)
    return Activity(in_flight, sum(map(float, served))) if in_flight is not None and served else None
