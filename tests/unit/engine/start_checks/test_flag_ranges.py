"""A number outside of the range of vLLM's configuration is refused at once."""

from __future__ import annotations

import shlex

import pytest

from vllm_magic.engine.start_checks import flag_ranges
from vllm_magic.errors import InvalidOption


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--gpu-memory-utilization 1 --max-num-seqs 1 -tp 1 -pp 8",
        "--gpu-memory-utilization 1.5 --gpu-memory-utilization=0.01",  # the last one counts
        "--gpu-memory-utilization high --max-num-seqs many --max-num-seqs",  # `flag_values` refuses them
        "--seed -1",
        "--max-model-len -1 --max-num-batched-tokens 8k --cpu-offload-gb 0",
        "--max-model-len auto",
        "--max-num-batched-tokens 1K --max-num-seqs 1024",
        "--omni --gpu-memory-utilization 90",
    ],
)
def test_what_vllm_may_accept_is_left_to_it(planned, line):
    flag_ranges.check(planned(*shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--gpu-memory-utilization 1.5", "1.5 is no share of a GPU's memory. Give a number above 0 and up to 1, such as 0.9."),
        ("--gpu_memory_utilization=90", "--gpu-memory-utilization 90 is no share of a GPU's memory."),
        ("--gpu-memory-utilization 0", "is no share"),
        ("--gpu-memory-utilization nan", "is no share"),
        ("--max-num-seqs 0", "--max-num-seqs 0 is less than 1. Give 1 or more."),
        ("--max-num-batched-tokens 0", "--max-num-batched-tokens 0 is less than 1."),
        ("--cpu-offload-gb -1", "--cpu-offload-gb -1 is less than 0. Give 0 or more."),
        ("--max-model-len 0", "--max-model-len 0 is no number of tokens. Give 1 or more, or auto."),
        ("--max-model-len=-5", "--max-model-len -5 is no number of tokens."),
        (
            "--max-num-batched-tokens 1k --max-num-seqs 1024",
            "--max-num-batched-tokens 1000 is less than --max-num-seqs 1024: each step has a token of each sequence. Give",
        ),
        ("-tp 0", "--tensor-parallel-size 0 is less than 1."),
        ("-pp -2", "--pipeline-parallel-size -2 is less than 1."),
    ],
)  # fmt: skip
def test_what_is_refused(planned, line, said):
    with pytest.raises(InvalidOption) as refused:
        flag_ranges.check(planned(*shlex.split(line)))
    assert said in str(refused.value)
