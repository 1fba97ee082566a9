"""Whether a start that failed is repeated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_magic.engine.failures import explanations
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle import retry
from vllm_magic.lifecycle.events import Over
from vllm_magic.release.result import nothing_to_release

# vllm/v1/worker/gpu_worker.py, as vLLM 0.29 raises it (vllm issue 56830)
MEASURED = [
    (
        "(EngineCore pid=77) AssertionError: Error in memory profiling. Initial free memory 82.94 GiB, current free memory "
        "90.17 GiB. This happens when other processes sharing the same container release GPU memory while vLLM is profiling"
    ),
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]
FAILED = Over(nothing_to_release("m"), Why.LEADER_ENDED, explanations.explain(MEASURED, 1))


def test_a_failure_that_has_passed():
    assert retry.is_due(FAILED, was_ready=False, is_stop_requested=False)


@pytest.mark.parametrize(
    ("over", "was_ready", "is_stop_requested"),
    [
        (FAILED, True, False),
        (FAILED, False, True),
        (replace(FAILED, why=Why.ASKED), False, False),
        (replace(FAILED, failure=None), False, False),
        (replace(FAILED, failure=explanations.explain(["ValueError: no"], 1)), False, False),
        (replace(FAILED, release=replace(FAILED.release, verified=False)), False, False),
    ],
)
def test_any_other_end(over, was_ready, is_stop_requested):
    assert not retry.is_due(over, was_ready=was_ready, is_stop_requested=is_stop_requested)
