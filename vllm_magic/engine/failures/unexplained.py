"""The cause and the hint for an error that no `Sign` describes: its message, vLLM's advice, the flags, the process, and the place."""

from __future__ import annotations

import re
import textwrap
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from vllm_magic.engine.failures import constraints, error_kinds, places, tracebacks
from vllm_magic.engine.failures.hints import SEE_LOGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_magic.engine.failures.tracebacks import Frame

MOST_NAMED = 3  # flags that a hint names, at most
LONGEST_ADVICE = 200  # characters of vLLM's advice, at most
LONGEST_SEARCH = 80  # characters of the search text in the link to vLLM's issues, at most
ISSUES = "https://github.com/vllm-project/vllm/issues?q="

# The blanks in a message after which vLLM's advice begins.
_ADVICE = re.compile(
    r"(?<=[.!?;]) +(?=(?:[Pp]lease|Consider|Try|To (?:fix|avoid|use|resolve|enable|run|support)|You (?:can|may|should|need|must)|"
    r"Make sure|Ensure|If (?:you|this)|We (?:recommend|suggest)|Either|Use|Set|Reduce|Increase|Decrease|Lower|Raise|Add|Pass|"
    r"Install|Upgrade|Update|Check|Specify|Remove|Disable|Enable|Run|Choose)\b(?!.{0,200}(?:stack trace|an issue\b|issues/)))"
)
# Advice that says what to look at, and not what to do.
_WEAK = re.compile(r"(?i:(?:please |you (?:should|may) )?(?:check|ensure|verify|make sure)\b)")
# The end of a message that says with which option the error occurs.
_CONDITION = re.compile(r"\b(?:when|while) .{1,200}")
# For each feature, a pattern for its name in messages, and its flag.
_FEATURES = (
    (r"prefix.cach", "--enable-prefix-caching"),
    (r"chunked.prefill", "--enable-chunked-prefill"),
    (r"pipeline.parallel", "--pipeline-parallel-size"),
    (r"tensor.parallel", "--tensor-parallel-size"),
    (r"data.parallel", "--data-parallel-size"),
    (r"decode.context.parallel", "--decode-context-parallel-size"),
    (r"expert.parallel", "--enable-expert-parallel"),
    (r"speculative|spec.decod|\bMTP\b|\beagle", "--speculative-config"),
    (r"\bLoRA\b", "--enable-lora"),
    (r"reasoning.parser", "--reasoning-parser"),
    (r"tool.(?:call.)?parser", "--tool-call-parser"),
    (r"KV.(?:connector|transfer)", "--kv-transfer-config"),
    (r"sleep.mode", "--enable-sleep-mode"),
    (r"sliding.window", "--disable-sliding-window"),
    (r"(?:KV.cache.dtype|fp8.KV)", "--kv-cache-dtype"),
    (r"cpu.(?:weight.)?offload", "--cpu-offload-gb"),
    (r"attention.backend", "--attention-backend"),
)


def cause_and_hint(
    error: str, process: str, frames: Sequence[Frame], flags: Sequence[str]
) -> tuple[str, str]:
    """Return the cause and the hint.

    Args:
        error: the error's message, with the name of its exception if that name says something.
        process: the process that raised the error, as the prefix of the log line names it; "" if the process is unknown.
        frames: the frames of the error's traceback, the deepest first.
        flags: all flags of vLLM.
    """
    cause, *advice = _ADVICE.split(error, maxsplit=1)
    cause = cause.rstrip(".:; ")
    if frames and re.fullmatch(r"[\w.]+", cause):  # an exception without a message
        cause += f" in {frames[0].function} ({PurePath(frames[0].path).name})"
    named = [flag for flag in dict.fromkeys(_flags_in(error, flags)) if flag in flags][:MOST_NAMED]
    asked = constraints.what_it_asks(error, named)
    change = [_change(cause, named)] if named and not advice else []
    hints = [
        *asked,
        *(textwrap.shorten(text[:1].upper() + text[1:], LONGEST_ADVICE, placeholder="…") for text in advice),
        *([] if asked else change),
        *([] if asked else places.where_raised(process, frames)),
        *([] if asked or (advice and not _WEAK.match(advice[0])) else error_kinds.what_helps(error)),
        SEE_LOGS,
        f"search for other reports of it: {ISSUES}{quote_plus(_search_text(cause))}",
    ]
    return tracebacks.brief(cause), "; ".join(hint.rstrip(".") for hint in hints)


def _change(cause: str, named: Sequence[str]) -> str:
    """Return what to do about the flags that a cause names: an option is left out with which alone the error occurs."""
    condition = _CONDITION.search(cause)
    reasons = [flag for flag in _flags_in(condition[0], named) if flag in named] if condition else []
    others = [flag for flag in named if flag not in reasons]
    if not reasons:
        return f"Change {' or '.join(named)}, or leave it out"
    leave = f"eave {' and '.join(dict.fromkeys(reasons))} out"
    return f"Change {' or '.join(others)}, or l{leave}" if others else f"L{leave}"


def _search_text(cause: str) -> str:
    """Return the words of a cause, without paths, addresses and numbers: those of one machine are in no other report."""
    found = re.findall(r"(?<![\w/.])[A-Za-z_][\w.-]*(?![\w/])", cause)
    return textwrap.shorten(" ".join(found), LONGEST_SEARCH, placeholder="")


def _flags_in(text: str, known: Sequence[str]) -> Iterator[str]:
    """Yield the flags that a message names: as a flag, as a field of vLLM's configuration, as a feature, or in words."""
    for word in re.findall(r"(?<![\w-])(?:--[a-z][\w-]*|[a-z]+(?:_[a-z]+)+)(?![\w-])", text):
        yield f"--{word.removeprefix('--').replace('_', '-')}"
    for feature, flag in _FEATURES:
        if re.search(feature, text, re.IGNORECASE):
            yield flag
    words = f" {' '.join(re.findall('[a-z]+', text.lower()))} "
    for flag in known:
        name = flag.removeprefix("--").replace("-", " ")
        if " " in name and f" {name} " in words:
            yield flag
