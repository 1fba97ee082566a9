"""Refuse numbers outside the range that vLLM allows (vllm/config). vLLM itself checks the ranges only after its imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.engine.start_checks.flag_values import GPU_MEMORY
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

# The least value of flags, in vLLM 0.15 to 0.33.
_LEAST = {
    "--max-num-seqs": 1,
    "--max-num-batched-tokens": 1,
    "--tensor-parallel-size": 1,
    "--pipeline-parallel-size": 1,
    "--stream-interval": 1,
    "--cpu-offload-gb": 0,
}
# vLLM compares them if both are given (verify_max_model_len in config/scheduler.py).
_SEQUENCES, _TOKENS = "--max-num-seqs", "--max-num-batched-tokens"
_LENGTH = "--max-model-len"  # -1 means the longest that fits


def check(start: PlannedStart) -> None:
    """Check the numbers whose range is certain. Do nothing if the flags of this vLLM are not known for certain.

    Raises:
        InvalidOption: some numbers are outside their ranges.
    """
    if start.is_omni:
        return
    problems = []
    share = _number(start, GPU_MEMORY)
    if share is not None and not 0 < share <= 1:
        problems.append(
            f"{GPU_MEMORY} {share:g} is no share of a GPU's memory. Give a number above 0 and up to 1, such as 0.9."
        )
    for flag, least in _LEAST.items():
        number = _number(start, flag)
        if number is not None and number < least:
            problems.append(f"{flag} {number:g} is less than {least}. Give {least} or more.")
    length = _number(start, _LENGTH)
    if length is not None and (length < -1 or length == 0):
        problems.append(f"{_LENGTH} {length:g} is no number of tokens. Give 1 or more, or auto.")
    sequences, tokens = (_amount(start, flag) for flag in (_SEQUENCES, _TOKENS))
    if sequences and tokens and 0 < tokens < sequences:
        problems.append(
            f"{_TOKENS} {tokens} is less than {_SEQUENCES} {sequences}: each step has a token of each sequence. "
            f"Give {_TOKENS} {sequences} or more."
        )
    if problems:
        raise InvalidOption(*problems)


def _amount(start: PlannedStart, flag: str) -> int | None:
    """Return the value of the last flag with this name, also for a notation such as 8k; None as `_number`."""
    given = start.last(flag)
    return flags.amount(given.values[-1]) if given and given.values else None


def _number(start: PlannedStart, flag: str) -> float | None:
    """Return the value of the last flag with this name; None if there is no such flag, or if the value is no number."""
    given = start.last(flag)
    try:
        return float(given.values[-1]) if given and given.values else None
    except ValueError:
        return None
