"""The command lines of `vllm preload` and `vllm snapshot`, and of what is neither."""

from __future__ import annotations

import pytest

from vllm_magic.engine import fast_start
from vllm_magic.engine.fast_start import FastStart

PRELOAD, SNAPSHOT = FastStart.PRELOAD, FastStart.SNAPSHOT


@pytest.mark.parametrize(
    ("line", "kind", "title"),
    [
        ("/a/bin/python3.12 /a/bin/vllm preload --model Qwen/Qwen3-8B -tp 2", PRELOAD, "vllm preload Qwen/Qwen3-8B"),
        ("vllm preload --model=Qwen/Qwen3-8B", PRELOAD, "vllm preload Qwen/Qwen3-8B"),
        ("python -m vllm preload --model m", PRELOAD, "vllm preload m"),
        ("python -I /bin/vllm preload", PRELOAD, "vllm preload"),
        ("python /bin/vllm snapshot restore /snapshots/m", SNAPSHOT, "vllm snapshot"),
        ("python -m vllm.snapshot.server --ready-file r -- m --max-model-len 9", SNAPSHOT, "vllm snapshot m"),
        ("python -m vllm.snapshot.server --ready-file r -- --model m", SNAPSHOT, "vllm snapshot m"),
        ("python /bin/vllm serve preload", None, None),
        ("python -m vllm serve snapshot", None, None),
        ("python train.py vllm preload", None, None),
        ("grep vllm preload", None, None),
        ("vllm", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_command_lines(line, kind, title):
    words = line.split()
    assert fast_start.kind(words) is kind
    if kind is not None:
        assert fast_start.title(words) == title
