"""What vLLM's /metrics tells besides what `load` counts: of all this nothing is true here but the length."""

from __future__ import annotations

from functools import lru_cache

REST = 550  # lines in place of what Python, the process and the web framework tell: 63 kB in all, as was measured

# Name and number of buckets, as vLLM 0.32 has them on its CPU build.
_HISTOGRAMS = {
    "request_prompt_tokens": 10,
    "request_generation_tokens": 10,
    "iteration_tokens_total": 15,
    "request_max_num_generation_tokens": 10,
    "request_params_n": 7,
    "request_params_max_tokens": 10,
    "request_time_per_output_token_seconds": 21,
    "request_queue_time_seconds": 23,
    "request_inference_time_seconds": 23,
    "request_prefill_time_seconds": 23,
    "request_decode_time_seconds": 23,
    "request_num_preemptions": 9,
    "request_prefill_kv_computed_tokens": 10,
}
_SOURCES = (
    "local_compute",
    "local_cache_hit",
    "external_kv_transfer",
    "external_cache_hit",
    "remote_prefill",
)
_COUNTERS = {
    "prompt_tokens_by_source": _SOURCES,
    "prompt_tokens_cached_by_source": _SOURCES,
    "num_requests_waiting_by_reason": ("capacity", "deferred"),
    "admission_rejections": ("queue_full", "too_long"),
}


@lru_cache(maxsize=1)
def text(model: str) -> str:
    """The text for a server of this model."""
    lines = []
    for name, reasons in _COUNTERS.items():
        lines += [f"# HELP vllm:{name} Of each kind, how many there were.", f"# TYPE vllm:{name} counter"]
        lines += [
            f'vllm:{name}_total{{engine="0",model_name="{model}",reason="{one}"}} 0.0' for one in reasons
        ]
    for name, buckets in _HISTOGRAMS.items():
        labels = f'engine="0",model_name="{model}"'
        lines += [f"# HELP vllm:{name} Histogram of this for each request.", f"# TYPE vllm:{name} histogram"]
        limits = [*(f"{2.0**power}" for power in range(buckets - 1)), "+Inf"]
        lines += [f'vllm:{name}_bucket{{{labels},le="{limit}"}} 0.0' for limit in limits]
        lines += [f"vllm:{name}_count{{{labels}}} 0.0", f"vllm:{name}_sum{{{labels}}} 0.0"]
        lines += [
            f"# TYPE vllm:{name}_created gauge",
            f"vllm:{name}_created{{{labels}}} 1.795579196187955e+09",
        ]
    lines += [
        f"# HELP http_request_duration_seconds of the web framework, {number}" for number in range(REST)
    ]
    return "\n".join(lines) + "\n"
