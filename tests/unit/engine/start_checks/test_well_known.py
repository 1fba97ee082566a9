"""A line of well-known flags needs no check against the flags of the installed vLLM."""

from __future__ import annotations

import shlex

import pytest

from vllm_magic.engine.start_checks import well_known


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--max-model-len 4096 --gpu-memory-utilization 0.5 -tp 2 --enforce-eager",
        "--dtype bfloat16 --kv-cache-dtype fp8 --no-enable-prefix-caching",
        """--hf-overrides '{"a": 1}' --served-model-name a""",
        "-O3",
    ],
)
def test_well_known_flags(line):
    assert well_known.are(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "--strange",
        "--max-modell-len 4096",
        "--max-model-len long",
        "--dtype float99",
        "--enforce-eager yes",
        "--hf-overrides {a:1}",
        "--quantization awq",
        "--tool-call-parser hermes",
        "--enable",
    ],
)
def test_flags_that_only_vllm_knows(line):
    assert not well_known.are(shlex.split(line))
