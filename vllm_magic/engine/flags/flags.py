"""Read flags of a ``vllm serve`` command line, and remove them, without a table of all flags.

vLLM accepts ``--flag value``, ``--flag=value``, and underscores for dashes (its utils/argparse_utils.py).
"""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST_NUMBER = 100  # digits
# The flags that most people use, of the 430 flags of vLLM 0.32.
_WELL_KNOWN = """
--api-key --attention-backend --block-size --chat-template --compilation-config --config --cpu-offload-gb
--data-parallel-size -dp --distributed-executor-backend --download-dir --dtype --enable-auto-tool-choice
--enable-chunked-prefill --enable-expert-parallel --enable-log-requests --enable-lora
--enable-prefix-caching --enable-sleep-mode --enforce-eager --generation-config --gpu-memory-utilization
--hf-overrides --hf-token --host --kv-cache-dtype --kv-cache-memory-bytes --kv-transfer-config
--limit-mm-per-prompt --load-format --lora-modules --max-logprobs --max-lora-rank --max-loras
--max-model-len --max-num-batched-tokens --max-num-seqs --mm-processor-kwargs --model --model-impl
--override-generation-config --pipeline-parallel-size -pp --port --quantization -q --reasoning-parser
--revision --runner --seed --served-model-name --skip-tokenizer-init --speculative-config
--tensor-parallel-size -tp --tokenizer --tokenizer-mode --tool-call-parser --trust-remote-code
--uvicorn-log-level
"""
WELL_KNOWN = tuple(_WELL_KNOWN.split())
# The options of vllm_magic for a start: a flag that vLLM does not have may be one of them, misspelled.
OWN = (
    "--name", "--gpus", "--port", "--env", "--executable", "--vllm", "--profile", "--force", "--cluster", "--keep", "--ttl",
    "--no-wait", "--timeout",
)  # fmt: skip

# Characters, dashes included, from which the beginning of a flag suggests the whole flag.
SHORTEST_BEGINNING = 5
ALIKE = 0.75  # how similar two flags must be, by difflib's measure: as --max-len and --max-model-len
MANY = 5  # how many similar flags are searched for common ones


def similar(word: str, known: Iterable[str], most: int = 2) -> list[str]:
    """Return the flags that a user may have meant by an unknown flag, the likeliest first.

    These are the flags that begin with the unknown flag or look like it; rare flags only if no common flag does.

    Args:
        word: the unknown flag, such as ``--max-len``.
        known: all known flags.
        most: the largest number of flags to return.
    """
    known = list(known)
    begun = [flag for flag in known if len(word) >= SHORTEST_BEGINNING and flag.startswith(word)]
    found = list(dict.fromkeys([*begun, *get_close_matches(word, known, MANY, ALIKE)]))
    return ([flag for flag in found if flag in WELL_KNOWN] or found)[:most]


def value(args: Sequence[str], *names: str) -> str | None:
    """Return the value of the last flag with one of these names; None if there is no such flag."""
    found = None
    for position, arg in enumerate(args):
        flag, equals, rest = split(arg)
        if flag in names:
            found = rest if equals else args[position + 1] if position + 1 < len(args) else None
    return found


def has(args: Sequence[str], *names: str) -> bool:
    """Whether the command line has one of these flags, with or without a value."""
    return any(split(arg)[0] in names for arg in args)


def pop(args: Sequence[str], name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the value of the flag, and the command line without the flag.

    Raises:
        InvalidOption: the flag has no value.
    """
    left: list[str] = []
    found = None
    arguments = iter(args)
    for argument in arguments:
        flag, equals, rest = split(argument)
        if flag != name:
            left.append(argument)
            continue
        found = rest if equals else next(arguments, "")
        if not found or (found.startswith("--") and not equals):
            raise InvalidOption(f"{name} needs a value: {name} VALUE.")
    return found, tuple(left)


def whole_number(args: Sequence[str], *names: str, default: int) -> int:
    """Return the value as a whole number; the default if it is absent or not a number (vLLM will report that)."""
    text = value(args, *names) or ""
    return int(text) if is_whole_number(text) else default


def is_whole_number(text: str) -> bool:
    """Whether the text is a whole number of sensible length (`int` takes at most 4,300 digits)."""
    return text.isdecimal() and len(text) <= LONGEST_NUMBER


def amount(text: str) -> int | None:
    """Return a number in one of vLLM's notations: "8192", "32k" (32,000), "25.6k", "32K" (32,768); None for anything else.

    The notations are those of human_readable_int in vLLM's utils/argparse_utils.py.
    """
    match = re.fullmatch(r"(\d{1,15})(\.\d{1,15})?([kKmMgGtT]?)", text.strip(), re.ASCII)
    if not match or (match[2] and not match[3].islower()):
        return None
    whole, fraction, suffix = match[1], match[2], match[3]
    base = 1024 if suffix.isupper() else 1000
    times = math.prod([base] * (" kmgt".find(suffix.lower() or " ")))
    return int(float(whole + fraction) * times) if fraction else int(whole) * times


def number(args: Sequence[str], *names: str, default: float) -> float:
    """Return the value as a number; the default if it is absent or not a number (vLLM will report that)."""
    try:
        found = float(value(args, *names) or default)
    except ValueError:
        return default
    return found if math.isfinite(found) else default


def split(arg: str) -> tuple[str, bool, str]:
    """Split an argument into the flag, with dashes for underscores, whether "=" follows, and the text after "="."""
    flag, equals, rest = arg.partition("=")
    return (flag.replace("_", "-") if flag.startswith("--") else flag), bool(equals), rest
