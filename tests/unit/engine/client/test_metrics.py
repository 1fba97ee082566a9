"""What a server tells of its work: Prometheus text into numbers, and what a person sees of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as Histo

from vllm_magic.engine.client.metrics import Activity, Histogram, activity, parse, with_rates
from vllm_magic.jupyter.display import views

INF = float("inf")
NO_NUMBERS = (
    "1e999",
    "1.2.3",
    "e+",
    "9" * 5000,
    "NaN",
    "+Inf",
    "-1",
    "x",
    "1e308\nvllm:num_requests_running 1e308",
)
TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="/m/{a b} 7"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.1
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1500.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="m"} 300.0
# TYPE vllm:request_success counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 4.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 250.0
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.2",model_name="m"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="m"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.2",model_name="m"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="m"} 6.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 6.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 1.5
# TYPE process_cpu_seconds counter
process_cpu_seconds_total 12.5
"""


def test_of_several_engines_the_sum():
    found = parse(TEXT)
    assert (found.running, found.waiting, found.finished) == (3, 4, 6)
    assert (found.prompt_tokens, found.generation_tokens, found.preemptions) == (1500, 300, 3)
    assert (found.kv_cache_use, found.prefix_hit_rate) == (pytest.approx(0.3), 0.25)
    assert found.ttft == Histogram(((0.1, 2.0), (0.2, 8.0), (INF, 10.0)), 10.0, 1.5)
    assert found.itl == Histogram((), 0.0, 0.0)


def test_quantiles_lie_evenly_in_their_bucket():
    times = parse(TEXT).ttft
    assert times.quantile(0.1) == pytest.approx(0.05)
    assert times.quantile(0.5) == pytest.approx(0.15)
    assert times.quantile(0.99) == 0.2  # it lies beyond what is counted
    assert Histogram((), 0.0, 0.0).quantile(0.5) is None
    assert Histogram(((0.1, 0.0),), 3.0, 1.0).quantile(0.5) is None


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "<html>", "process_cpu_seconds_total 1\n", "vllm:num_requests_running nan", '{"a": 1}'],
)
def test_what_is_none(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "in_flight"),
    [
        ("vllm:num_requests_running 3\n", 3),
        ("vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n", 0),
        ("vllm:num_requests_waiting 1e+03", 1000),
        ("vllm:num_requests_running 3 1700000000\n", 3),
        ("x_vllm:num_requests_running 3\n", 0),
        *(
            (f"vllm:num_requests_running {number}\nvllm:num_requests_waiting 0\n", None)
            for number in NO_NUMBERS
        ),
        ("", 0),  # with several API servers, before the first request
    ],
)
def test_requests_in_flight(text, in_flight):
    found = activity(f"vllm:prompt_tokens_total 1\n{text}")
    assert (found and found.in_flight) == in_flight
    assert activity(text) is None  # nothing says what was served


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_counter_that_is_no_number_says_nothing(number):
    counter = number.replace("num_requests_running", "request_success_total")
    said = f"vllm:num_requests_running 0\nvllm:request_success_total {counter}\n"
    assert activity(said) is None


def test_the_activity_is_part_of_the_metrics():
    found = activity(TEXT)
    assert found == Activity(running=3, waiting=4, finished=6, prompt_tokens=1500, generation_tokens=300)
    assert (found.in_flight, found.served) == (7, 1806)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.integers(0, 2**40)),
        min_size=1,
        max_size=5,
        unique_by=lambda one: one[0],
    ),
    st.lists(st.floats(0, 5), max_size=9),
)
def test_what_prometheus_writes(engines, times):
    """Prometheus's own package writes the text; a label may hold anything."""
    registry = CollectorRegistry()
    running = Gauge("vllm:num_requests_running", "Running.", ["model_name"], registry=registry)
    tokens = Counter("vllm:generation_tokens", "Tokens.", ["model_name"], registry=registry)
    ttft = Histo(
        "vllm:time_to_first_token_seconds", "TTFT.", ["model_name"], buckets=[0.1, 1], registry=registry
    )
    for model, count in engines:
        running.labels(model).set(count)
        tokens.labels(model).inc(count)
        for seconds in times:
            ttft.labels(model).observe(seconds)
    found = parse(generate_latest(registry).decode())
    assert found.running == found.generation_tokens == sum(count for _, count in engines)
    fast = [sum(one <= limit for one in times) * len(engines) for limit in (0.1, 1, INF)]
    assert [count for _, count in found.ttft.buckets] == (fast if times else [])
    assert found.ttft.count == len(times) * len(engines)


@settings(deadline=None)
@given(st.text(alphabet='vllm:num_requests_running{}="0.le\n# TYPEInfna', max_size=300))
def test_any_text(text):
    parse(text)
    parse(TEXT + text)


def test_rates():
    before = parse(TEXT)
    after = parse(TEXT.replace("1500.0", "1700.0").replace("300.0", "305.0"))
    now = with_rates(before, after, 2.0)
    assert (now.prompt_rate, now.generation_rate, now.window) == (100.0, 2.5, 2.0)
    assert with_rates(after, before, 2.0).prompt_rate == 0.0  # an engine that began anew


def test_what_is_seen():
    shown = repr(views.metrics("tiny", parse(TEXT)))
    for text in (
        "3 running, 4 waiting, 6 finished",
        "30.0 %",
        "25.0 %",
        "p50 150 ms, p95 200 ms, p99 200 ms",
        "none yet",
    ):
        assert text in shown
    assert "? " in repr(views.metrics("tiny", parse(TEXT.replace("vllm:kv_cache_usage_perc", "x")))).replace(
        "?\n", "? "
    )


def test_a_line_beyond_all_measure_costs_little():
    """And none that is made to be read long."""
    labels = ",".join(f'a{number}="b"' for number in range(500_000))
    assert parse(f"vllm:x{{{labels}}} 1\n{TEXT}") == parse(TEXT)
    for odd in ("} ", "{", " 1", '",le="'):
        parse(f"vllm:num_requests_running{{{500_000 * odd}\n{TEXT}")


def test_the_time_between_two_tokens_has_another_name_up_to_vllm_0_10():
    def text(name: str, count: int) -> str:
        return f'vllm:{name}_bucket{{le="0.5"}} {count}\nvllm:{name}_count {count}\nvllm:{name}_sum 1.5\n'

    old = text("time_per_output_token_seconds", 3)
    assert parse(TEXT + old).itl == Histogram(((0.5, 3.0),), 3.0, 1.5)
    both = parse(TEXT + old + text("inter_token_latency_seconds", 5))  # as 0.11 to 0.13
    assert both.itl.count == 5.0
