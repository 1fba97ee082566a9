"""The requests of vLLM's HTTP API that follow a server's life: readiness, activity, sleep mode, metrics."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from vllm_magic.engine.client import exchange, metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.client.exchange import HttpResponse
    from vllm_magic.engine.client.metrics import Activity, Metrics
    from vllm_magic.engine.endpoint import Endpoint

ANSWER_LIMIT = 5.0  # seconds for a whole answer


class Api:
    """A client for one server. Safe to use from any thread; each call returns within its limit.

    Args:
        endpoint: the address and the key of the server.
        verify: called when a connection is made, before anything is sent; each call raises the errors of this function, except
            `NoAnswerError`.
        limit: seconds for a whole answer; None for `ANSWER_LIMIT`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        verify: Callable[[], object],
        limit: float | None = None,
    ) -> None:
        self._url = endpoint.url
        self._verify = verify
        self._limit = ANSWER_LIMIT if limit is None else limit

    def health(self) -> int | None:
        """Return the status of ``GET /health``: 200 once the server is ready, 503 if its engine is dead; None without an answer."""
        answer = self._ask("GET", "/health", self._limit)
        return answer.status if answer else None

    def activity(self) -> Activity | None:
        """Return the server's activity, from ``/metrics``; None without a valid answer."""
        text = self._get("/metrics")
        return None if text is None else metrics.activity(text)

    def is_sleeping(self) -> bool | None:
        """Whether the server sleeps; None if the server does not say, for example without its development routes."""
        answer = self._ask("GET", "/is_sleeping", self._limit)
        try:
            said = answer.json()["is_sleeping"] if answer else None
        except (ValueError, KeyError, TypeError):
            return None
        return said if isinstance(said, bool) else None

    def post(self, path: str, body: object = None, limit: float | None = None) -> int | None:
        """Send a ``POST``, and return the status; None if the answer is not complete within ``limit`` seconds.

        The default limit is that of the client.
        """
        answer = self._ask("POST", path, self._limit if limit is None else limit, body)
        return answer.status if answer else None

    def metrics(self) -> Metrics | None:
        """Return all metrics of the server; None without a valid answer."""
        text = self._get("/metrics")
        return None if text is None else metrics.parse(text)

    def _get(self, path: str) -> str | None:
        answer = self._ask("GET", path, self._limit)
        return answer.text if answer and answer.status == HTTPStatus.OK else None

    def _ask(self, method: str, path: str, limit: float, body: object = None) -> HttpResponse | None:
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            return exchange.ask(
                method, self._url + path, limit, body=data, headers=headers, connected=self._verify
            )
        except exchange.NoAnswerError:
            return None
