"""Each known failure, on the line that tells of it."""

from __future__ import annotations

import pytest
from failure_logs import KNOWN, in_engine
from failure_messages import MESSAGES

from vllm_magic.engine.failures import explanations, tracebacks
from vllm_magic.engine.failures.explanations import explain
from vllm_magic.engine.failures.hints import SEE_LOGS, HintContext
from vllm_magic.engine.failures.machine_facts import MachineFacts
from vllm_magic.engine.failures.signs import SIGNS, hub, machine
from vllm_magic.engine.flags import flags
from vllm_magic.sizes import GIB

from .test_reported import REPORTS


def sign_of(lines):
    log = tracebacks.read(lines)
    found = explanations._best(explanations._found(SIGNS, log, explanations._text(log)), log)
    return found and found.sign


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:50])
def test_a_message_is_explained_in_one_line(message):
    failure = explain(in_engine(message), 1, HintContext(flags.WELL_KNOWN, "some/model"))
    assert failure.hint != SEE_LOGS
    for text in (failure.cause, failure.hint):
        assert text
        assert "\n" not in text
        assert "{" not in text.replace("{'", "")
        assert not text.endswith(".")
    assert failure.lines


def test_each_sign_is_tried():
    logs = [
        *(in_engine(message) for message in MESSAGES),
        *REPORTS.values(),
        *(log for log, *_ in KNOWN.values()),
    ]
    tried = {sign_of(log) for log in logs}
    assert [sign.pattern for sign in SIGNS if sign not in tried] == []


@pytest.mark.parametrize(
    ("message", "cause", "hint"),
    [
        (
            "OSError: [Errno 24] Too many open files: 'a'",
            "too many files open: the limit is 1024",
            "ulimit -n",
        ),
        ("MemoryError", "memory has run out: the container may use 16.0 GiB", "smaller model"),
        ("ImportError: libnuma.so.1: cannot open shared object file", "libnuma.so.1 is missing", "libnuma1"),
        (
            "ImportError: libodd.so.1: cannot open shared object file",
            "libodd.so.1",
            "the package that has it",
        ),
        ("ValueError: LoRA rank 48 is greater than max_lora_rank 16.", "rank 48", "--max-lora-rank 64"),
        ("ValueError: LoRA rank 999 is greater than max_lora_rank 16.", "rank 999", "ranks up to 512"),
        (
            "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='hub.example', port=443): Max retries exceeded",
            "hub.example cannot be reached",
            "HF_ENDPOINT",
        ),
        (
            "AssertionError: Attempted to load weight (torch.Size([1024, 64])) into parameter (torch.Size([1024, 128]))",
            "the shape [1024, 64], and the model wants [1024, 128]",
            "config.json",
        ),
    ],
)
def test_values_are_put_in(message, cause, hint):
    facts = MachineFacts(memory_limit=16 * GIB, files=1024)
    failure = explain(in_engine(message), 1, HintContext(flags.WELL_KNOWN, machine=facts))
    assert cause in failure.cause
    assert hint in failure.hint


def test_no_sign_is_in_two_families():
    names = [sign.pattern for sign in SIGNS]
    assert len(names) == len(set(names))
    assert not set(machine.SIGNS) & set(hub.SIGNS)
