"""What a server tells of its work on ``/metrics`` (vLLM 0.32, v1/metrics/loggers.py): Prometheus text into numbers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TTFT = "vllm:time_to_first_token_seconds"
ITL = "vllm:inter_token_latency_seconds"
LONGEST_LINE = 4096  # characters; the labels of what is read here are the engine, the model and a limit


@dataclass(frozen=True)
class Histogram:
    """How long something took, since the server began.

    Attributes:
        buckets: (limit in seconds, how many took at most that), with rising limits, the last one infinite.
        count: how many there were.
        total: seconds, of all of them.
    """

    buckets: tuple[tuple[float, float], ...]
    count: float
    total: float

    def quantile(self, share: float) -> float | None:
        """The time in which this share was done, as Prometheus estimates it: evenly spread in each bucket.

        None where there was nothing; the last finite limit where it lies beyond.
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
class Metrics:
    """What a server has done and does. Of several engines the sum.

    Attributes:
        running, waiting: requests.
        finished: requests, since the server began.
        prompt_tokens, generation_tokens: since the server began.
        kv_cache_use: share of the KV cache that is in use, 0 to 1, the mean of the engines; None if not told.
        prefix_hit_rate: share of the prompt tokens that the prefix cache had, 0 to 1; None before there was one.
        preemptions: requests put back for want of KV cache.
        ttft: time to first token.
        itl: inter-token latency.
        prompt_rate, generation_rate: tokens a second, over `window`.
        window: seconds over which the rates were taken; 0.0 for none.
    """

    running: int
    waiting: int
    finished: int
    prompt_tokens: int
    generation_tokens: int
    kv_cache_use: float | None
    prefix_hit_rate: float | None
    preemptions: int
    ttft: Histogram
    itl: Histogram
    prompt_rate: float = 0.0
    generation_rate: float = 0.0
    window: float = 0.0


def parse(text: str) -> Metrics | None:
    """The numbers in a Prometheus text; None where it is none, or not vLLM's."""
    from prometheus_client.parser import text_string_to_metric_families

    # The parser takes time by the square of a line's length.
    ours = (line for line in text.split("\n") if line.startswith("vllm:") and len(line) <= LONGEST_LINE)
    values: dict[str, list[float]] = defaultdict(list)
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    try:
        for name, labels, value in _samples(text_string_to_metric_families("\n".join(ours))):
            values[name].append(value)
            if name.endswith("_bucket"):
                buckets[name.removesuffix("_bucket")][float(labels["le"])] += value
        return _metrics(values, buckets) if "vllm:num_requests_running" in values else None
    except (ValueError, KeyError, OverflowError):
        return None


def with_rates(first: Metrics, last: Metrics, seconds: float) -> Metrics:
    """The later one of two looks, with the tokens a second between them."""
    return replace(
        last,
        prompt_rate=max(0.0, (last.prompt_tokens - first.prompt_tokens) / seconds),
        generation_rate=max(0.0, (last.generation_tokens - first.generation_tokens) / seconds),
        window=seconds,
    )


def _samples(families: object) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in families:  # type: ignore[attr-defined]
        for sample in family.samples:
            if sample.name.startswith("vllm:"):
                yield sample.name, sample.labels, sample.value


def _metrics(values: dict[str, list[float]], buckets: dict[str, dict[float, float]]) -> Metrics:
    def total(name: str) -> int:
        return int(sum(values.get(f"vllm:{name}", ())))

    def histogram(name: str) -> Histogram:
        return Histogram(
            tuple(sorted(buckets[name].items())),
            sum(values.get(f"{name}_count", ())),
            sum(values.get(f"{name}_sum", ())),
        )

    use = values.get("vllm:kv_cache_usage_perc")
    asked = total("prefix_cache_queries_total")
    return Metrics(
        running=total("num_requests_running"),
        waiting=total("num_requests_waiting"),
        finished=total("request_success_total"),
        prompt_tokens=total("prompt_tokens_total"),
        generation_tokens=total("generation_tokens_total"),
        kv_cache_use=sum(use) / len(use) if use else None,
        prefix_hit_rate=total("prefix_cache_hits_total") / asked if asked else None,
        preemptions=total("num_preemptions_total"),
        ttft=histogram(TTFT),
        itl=histogram(ITL),
    )
