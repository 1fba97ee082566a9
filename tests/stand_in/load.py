"""Requests under way in one API server: who runs, who waits, what was generated, and what /metrics says of it."""

from __future__ import annotations

import bisect
import contextlib
import enum
import os
import threading
import time
from typing import TYPE_CHECKING

from . import bulk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KV_CACHE_TOKENS = 37440
_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


class EngineState(enum.Enum):
    """What an answer can expect of the engine."""

    ALIVE = enum.auto()
    DEAD = enum.auto()  # it crashed: answers end with an error
    STOPPED = enum.auto()  # the API server ended it: answers wait for ever, as in vLLM


class EngineDeadError(Exception):
    """vLLM's exception for an answer whose engine crashed."""


class StuckError(Exception):
    """The answer will never go on."""


class Load:
    """The batch of one API server; thread-safe."""

    def __init__(self, model: str, max_running: int, token_s: float, *, late: bool = False) -> None:
        self.model = model
        self.state = EngineState.ALIVE
        self.running = 0
        self.waiting = 0
        self.idle, self._idle_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # readable: an answer ended
        self._max_running = max_running
        self._token_s = token_s
        self._changed = threading.Condition()
        self._held = 0  # tokens in the KV cache
        self._totals = {"prompt_tokens": 0, "generation_tokens": 0, "request_success": 0}
        self._late = late
        self._shown = dict(self._totals)
        self._times: dict[str, list[float]] = {
            "time_to_first_token_seconds": [],
            "inter_token_latency_seconds": [],
            "e2e_request_latency_seconds": [],
        }

    def end(self, state: EngineState) -> None:
        """Tell every answer that the engine is gone."""
        with self._changed:
            self.state = state
            self._changed.notify_all()

    @contextlib.contextmanager
    def answer(self, prompt_tokens: int) -> Iterator[Answer]:
        """Wait for a place in the batch and hold it."""
        answer = Answer(self)
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(
                lambda: self.running < self._max_running or self.state != EngineState.ALIVE
            )
            self.waiting -= 1
            self.running += 1
            self._totals["prompt_tokens"] += prompt_tokens
            self._held += prompt_tokens
        try:
            yield answer
        finally:
            with self._changed:
                self.running -= 1
                self._held -= prompt_tokens + answer.tokens
                self._shown = dict(self._totals)
                self._changed.notify_all()
            os.write(self._idle_writer, b".")

    def generate(self, answer: Answer) -> None:
        """Wait for the next token of `answer`.

        Raises:
            EngineDeadError: the engine crashed.
            StuckError: the engine was stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.state != EngineState.ALIVE, self._token_s)
            if self.state is EngineState.DEAD:
                raise EngineDeadError(
                    "EngineCore encountered an issue. See stack trace (above) for the root cause."
                )
            if self.state is EngineState.STOPPED:
                raise StuckError
            now = time.monotonic()
            first = answer.tokens == 0
            name = "time_to_first_token_seconds" if first else "inter_token_latency_seconds"
            self._times[name].append(now - answer.last)
            answer.last = now
            answer.tokens += 1
            self._held += 1
            self._totals["generation_tokens"] += 1

    def finish(self, answer: Answer) -> None:
        """Count `answer` as a success."""
        with self._changed:
            self._totals["request_success"] += 1
            self._times["e2e_request_latency_seconds"].append(time.monotonic() - answer.start)

    def total_tokens(self) -> tuple[int, int]:
        """Return prompt and generated tokens since the start."""
        with self._changed:
            return self._totals["prompt_tokens"], self._totals["generation_tokens"]

    def usage(self) -> float:
        """Return the part of the KV cache in use, 0 to 1."""
        return min(1.0, self._held / KV_CACHE_TOKENS)

    def metrics(self) -> str:
        """Return the Prometheus text: a part of vLLM's, and as long as all of it."""
        labels = f'engine="0",model_name="{self.model}"'
        with self._changed:
            gauges = {
                "num_requests_running": 0 if self._late else self.running,
                "num_requests_waiting": 0 if self._late else self.waiting,
                "kv_cache_usage_perc": self.usage(),
            }
            counters = {
                **(self._shown if self._late else self._totals),
                "prefix_cache_queries": 0,
                "prefix_cache_hits": 0,
                "num_preemptions": 0,
            }
            times = {name: sorted(values) for name, values in self._times.items()}
        lines = []
        for name, value in gauges.items():
            lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {float(value)}"]
        for name, value in counters.items():
            reason = ',finished_reason="length"' if name == "request_success" else ""
            lines += [f"# TYPE vllm:{name} counter", f"vllm:{name}_total{{{labels}{reason}}} {float(value)}"]
        for name, values in times.items():
            lines.append(f"# TYPE vllm:{name} histogram")
            for limit in _BUCKETS_S:
                below = float(bisect.bisect_right(values, limit))
                lines.append(f'vllm:{name}_bucket{{{labels},le="{limit}"}} {below}')
            count = float(len(values))
            lines.append(f'vllm:{name}_bucket{{{labels},le="+Inf"}} {count}')
            lines.append(f"vllm:{name}_count{{{labels}}} {count}")
            lines.append(f"vllm:{name}_sum{{{labels}}} {sum(values)}")
        return "\n".join(lines) + "\n" + bulk.text(self.model)


class Answer:
    """One answer under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.start = self.last = time.monotonic()
        self.tokens = 0

    def words(self, tokens: Iterable[str]) -> Iterator[str]:
        """Generate these tokens."""
        for token in tokens:
            self._load.generate(self)
            yield token
        self._load.finish(self)
