"""What is said of an error for which there is no sign: its own words, vLLM's advice, the flags, the process, the place."""

from __future__ import annotations

import re
import textwrap
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from vllm_magic.engine.failures import places, tracebacks
from vllm_magic.engine.failures.hints import SEE_LOGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_magic.engine.failures.tracebacks import Frame

MOST_NAMED = 3  # flags that are named
LONGEST_ADVICE = 200  # characters of vLLM's advice
LONGEST_SEARCH = 80  # characters of an error's message, in the link that searches for it
ISSUES = "https://github.com/vllm-project/vllm/issues?q="

# Where a message goes over to what vLLM advises.
_ADVICE = re.compile(
    r"(?<=[.!?;]) +(?=(?:[Pp]lease|Consider|Try|To (?:fix|avoid|use|resolve|enable|run|support)|You (?:can|may|should|need|must)|"
    r"Make sure|Ensure|If (?:you|this)|We (?:recommend|suggest)|Either|Use|Set|Reduce|Increase|Decrease|Lower|Raise|Add|Pass|"
    r"Install|Upgrade|Update|Check|Specify|Remove|Disable|Enable|Run|Choose)\b(?!.{0,200}(?:stack trace|an issue\b|issues/)))"
)
# Errors that vLLM does not raise on purpose.
_FAULT = re.compile(
    r"(?:AttributeError|UnboundLocalError|NameError|IndexError|ZeroDivisionError|TypeError)\b|.*INTERNAL ASSERT FAILED"
)
# What messages call a feature, and its flag.
_FEATURES = (
    (r"prefix.cach", "--enable-prefix-caching"),
    (r"chunked.prefill", "--enable-chunked-prefill"),
    (r"pipeline.parallel", "--pipeline-parallel-size"),
    (r"tensor.parallel", "--tensor-parallel-size"),
    (r"data.parallel", "--data-parallel-size"),
    (r"expert.parallel", "--enable-expert-parallel"),
    (r"speculative|spec.decod|\bMTP\b|\beagle", "--speculative-config"),
    (r"\bLoRA\b", "--enable-lora"),
    (r"KV.(?:connector|transfer)", "--kv-transfer-config"),
    (r"sleep.mode", "--enable-sleep-mode"),
    (r"sliding.window", "--disable-sliding-window"),
    (r"(?:KV.cache.dtype|fp8.KV)", "--kv-cache-dtype"),
    (r"cpu.offload", "--cpu-offload-gb"),
    (r"attention.backend", "--attention-backend"),
)


def words(error: str, process: str, frames: Sequence[Frame], flags: Sequence[str]) -> tuple[str, str]:
    """Return the cause and the hint.

    Args:
        error: the error's message; with the name of its exception, unless that says nothing.
        process: the process that raised it, as vLLM names it in a line's prefix; "" if it is unknown.
        frames: the frames of its traceback, the deepest first.
        flags: all flags of vLLM.
    """
    cause, *advice = _ADVICE.split(error, maxsplit=1)
    cause = cause.rstrip(".:; ")
    if frames and re.fullmatch(r"[\w.]+", cause):  # an exception without a message
        cause += f" in {frames[0].function} ({PurePath(frames[0].path).name})"
    named = [flag for flag in dict.fromkeys(_flags_in(error)) if flag in flags][:MOST_NAMED]
    said = [
        *(textwrap.shorten(text[:1].upper() + text[1:], LONGEST_ADVICE, placeholder="…") for text in advice),
        *([f"Change {' or '.join(named)}, or leave it out"] if named and not advice else []),
        *places.where_raised(process, frames),
        *(["often it is a fault of this version: try a newer vLLM"] if _FAULT.match(error) else []),
        SEE_LOGS,
        f"others may have met it: {ISSUES}{quote_plus(_searched(cause))}",
    ]
    return tracebacks.brief(cause), "; ".join(one.rstrip(".") for one in said)


def _searched(cause: str) -> str:
    # Paths, addresses and numbers of one machine are in no other report.
    found = re.findall(r"(?<![\w/.])[A-Za-z_][\w.-]*(?![\w/])", cause)
    return textwrap.shorten(" ".join(found), LONGEST_SEARCH, placeholder="")


def _flags_in(text: str) -> Iterator[str]:
    """Yield the flags that a message names: as such, as the field of vLLM's configuration, or in words."""
    for word in re.findall(r"(?<![\w-])(?:--[a-z][\w-]*|[a-z]+(?:_[a-z]+)+)(?![\w-])", text):
        yield f"--{word.removeprefix('--').replace('_', '-')}"
    for feature, flag in _FEATURES:
        if re.search(feature, text, re.IGNORECASE):
            yield flag
