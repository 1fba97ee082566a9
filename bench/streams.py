"""Open streams: completions that are being generated while their server is stopped."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

from bench.target import LOOPBACK, Target
from vllm_magic.engine.client.metrics import activity

if TYPE_CHECKING:
    from typing_extensions import Self

COUNT = 4
ANSWERS = 32  # in each of them, so that there is work for more than two seconds
TOKENS = 240  # in each answer, of the 256 that the model may take in all
ANSWER_LIMIT = 60.0  # seconds


class Streams:
    """`COUNT` streams that have begun, for the length of a `with`."""

    def __init__(self, target: Target, port: int) -> None:
        self._target = target
        self._port = port
        self._connections: list[http.client.HTTPConnection] = []
        self._answers: list[http.client.HTTPResponse] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(COUNT):
                self._open()
            for answer in self._answers:
                answer.readline()  # returns with the first token
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def check(self) -> None:
        """See that the server still works on each of them.

        Raises:
            RuntimeError: it does not, and a stop now would measure something else.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=ANSWER_LIMIT)
        try:
            connection.request("GET", "/metrics")
            work = activity(connection.getresponse().read().decode())
        finally:
            connection.close()
        # With more than this, at least one answer of each is among them.
        if work is None or work.in_flight <= (COUNT - 1) * ANSWERS:
            raise RuntimeError(f"{work and work.in_flight} of {COUNT * ANSWERS} answers are under way")

    def _open(self) -> None:
        target = self._target
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=ANSWER_LIMIT)
        self._connections.append(connection)
        body = {
            "model": target.model,
            "prompt": "the river",
            "n": ANSWERS,
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {target.api_key}"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"no stream: {answer.status} {answer.read().decode(errors='replace')}")
        self._answers.append(answer)
