"""Parse the metrics of a server: the Prometheus text of ``/metrics`` (vLLM 0.32, v1/metrics/loggers.py).

vLLM's text has 60 kB, and each server is asked once a second. So a pattern picks the lines that are needed. The parser of
Prometheus's own package reads all lines, which takes 100 times as long.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

_TTFT = "time_to_first_token_seconds"
_ITL = "inter_token_latency_seconds"
_OLD_ITL = "time_per_output_token_seconds"  # up to vLLM 0.10; 0.11 to 0.13 have both
# With several API servers (Prometheus's multiprocess mode), gauges are missing until the first request sets them.
_GAUGES = ("num_requests_running", "num_requests_waiting")
_COUNTERS = ("request_success_total", "prompt_tokens_total", "generation_tokens_total")
_ACTIVITY = (*_GAUGES, *_COUNTERS)
_OTHERS = (
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    *(f"{name}_{part}" for name in (_TTFT, _ITL, _OLD_ITL) for part in ("bucket", "count", "sum")),
)
_MOST = 2.0**63  # a larger value is not valid
_LIMIT = re.compile(r'(?:^|,)le="([^"]*)"')  # the label of a bucket


def _lines(*names: str) -> re.Pattern[str]:
    """Return a pattern for the lines of these metrics: the name, the labels, the value. A timestamp may follow."""
    return re.compile(rf"\nvllm:({'|'.join(names)})(?:\{{(.*)\}})? (\S+)(?: -?\d+)?(?=\n|$)")


_ACTIVITY_LINES = _lines(*_ACTIVITY)
_ALL_LINES = _lines(*_ACTIVITY, *_OTHERS)


@dataclass(frozen=True)
class Histogram:
    """A histogram of durations since the server began.

    Attributes:
        buckets: (limit in seconds, number of durations up to that limit), with rising limits; the last one is infinite.
        count: the number of durations.
        total: the sum of all durations, in seconds.
    """

    buckets: tuple[tuple[float, float], ...]
    count: float
    total: float

    def quantile(self, share: float) -> float | None:
        """Return the duration that this share of all durations does not exceed, as Prometheus estimates it.

        The durations in each bucket count as evenly spread. If the result is above the last finite limit, that limit is
        returned; if there are no durations, None.

        Args:
            share: 0 to 1.
        """
        if not self.count:
            return None
        rank = share * self.count
        for (lower, before), (upper, upto) in pairwise(((0.0, 0.0), *self.buckets)):
            if upto >= rank:
                if upper == float("inf"):
                    return lower
                return lower + (upper - lower) * (rank - before) / (upto - before) if upto > before else upper
        return None


@dataclass(frozen=True)
class Activity:
    """The requests and tokens of a server; for several engines, their sum.

    Attributes:
        running, waiting: the number of requests that run or wait.
        finished: the number of requests that have finished since the start.
        prompt_tokens, generation_tokens: the number of tokens since the start.
    """

    running: int
    waiting: int
    finished: int
    prompt_tokens: int
    generation_tokens: int

    @property
    def in_flight(self) -> int:
        """The number of requests that run or wait."""
        return self.running + self.waiting

    @property
    def served(self) -> int:
        """A number that rises with each request, and not with health checks, requests of /metrics or the warm-up."""
        return self.finished + self.prompt_tokens + self.generation_tokens


@dataclass(frozen=True)
class Metrics(Activity):
    """All metrics of a server; for several engines, their sum.

    Attributes:
        kv_cache_use: the share of the KV cache that is in use, 0 to 1, the mean of the engines; None if it is not reported.
        prefix_hit_rate: the share of the prompt tokens that the prefix cache had, 0 to 1; None before the first request.
        preemptions: the number of requests that were interrupted for lack of KV cache.
        ttft: the times to the first token.
        itl: the inter-token latencies.
        prompt_rate, generation_rate: tokens a second, over `window`.
        window: the seconds over which the rates were measured; 0.0 for no rates.
    """

    kv_cache_use: float | None
    prefix_hit_rate: float | None
    preemptions: int
    ttft: Histogram
    itl: Histogram
    prompt_rate: float = 0.0
    generation_rate: float = 0.0
    window: float = 0.0


def activity(text: str) -> Activity | None:
    """Return the requests and tokens in a Prometheus text; None if it has no counters, or a value is not valid."""
    found = _read(text, _ACTIVITY_LINES)
    return None if found is None else _activity(found)


def parse(text: str) -> Metrics | None:
    """Return all metrics in a Prometheus text; None if `activity` would return None, or another value is not valid."""
    found = _read(text, _ALL_LINES)
    work = None if found is None else _activity(found)
    if found is None or work is None:
        return None
    use = [value for _, value in found["kv_cache_usage_perc"]]
    asked = _total(found, "prefix_cache_queries_total")
    try:
        ttft, itl, old_itl = (_histogram(found, name) for name in (_TTFT, _ITL, _OLD_ITL))
    except ValueError:  # the limit of a bucket is no number
        return None
    return Metrics(
        **asdict(work),
        kv_cache_use=sum(use) / len(use) if use else None,
        prefix_hit_rate=_total(found, "prefix_cache_hits_total") / asked if asked else None,
        preemptions=int(_total(found, "num_preemptions_total")),
        ttft=ttft,
        itl=itl if itl.buckets else old_itl,
    )


def with_rates(first: Metrics, last: Metrics, seconds: float) -> Metrics:
    """Return the later of two metrics, with the rates between them.

    Args:
        first: the earlier metrics.
        last: the later metrics.
        seconds: the time between them.
    """
    return replace(
        last,
        prompt_rate=max(0.0, (last.prompt_tokens - first.prompt_tokens) / seconds),
        generation_rate=max(0.0, (last.generation_tokens - first.generation_tokens) / seconds),
        window=seconds,
    )


# The labels and the value of each line, by the name of the metric without "vllm:".
_Values = dict[str, list[tuple[str, float]]]


def _read(text: str, lines: re.Pattern[str]) -> _Values | None:
    """Return the lines that the pattern finds; None if a value is not valid."""
    found: _Values = defaultdict(list)
    for name, labels, value in lines.findall(f"\n{text}"):
        try:
            number = float(value)
        except ValueError:
            return None
        if not 0 <= number < _MOST:
            return None
        found[name].append((labels, number))
    return found


def _activity(found: _Values) -> Activity | None:
    if not any(name in found for name in _COUNTERS):
        return None
    return Activity(*(int(_total(found, name)) for name in _ACTIVITY))


def _total(found: _Values, name: str) -> float:
    return sum(value for _, value in found.get(name, ()))


def _histogram(found: _Values, name: str) -> Histogram:
    buckets: dict[float, float] = defaultdict(float)
    for labels, value in found[f"{name}_bucket"]:
        if limit := _LIMIT.search(labels):
            buckets[float(limit[1])] += value
    return Histogram(
        tuple(sorted(buckets.items())), _total(found, f"{name}_count"), _total(found, f"{name}_sum")
    )
