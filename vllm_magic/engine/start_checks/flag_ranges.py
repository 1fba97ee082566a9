"""Refuse numbers outside the range that vLLM allows (vllm/config). vLLM itself checks the ranges only after its imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.start_checks.flag_values import GPU_MEMORY
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

# Flags whose value must be 1 or more in vLLM 0.15 to 0.33.
_COUNTS = ("--max-num-seqs", "--tensor-parallel-size", "--pipeline-parallel-size")


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
    for flag in _COUNTS:
        count = _number(start, flag)
        if count is not None and count < 1:
            problems.append(f"{flag} {count:g} is less than 1. Give 1 or more.")
    if problems:
        raise InvalidOption(*problems)


def _number(start: PlannedStart, flag: str) -> float | None:
    """Return the value of the last flag with this name; None if there is no such flag, or if the value is no number."""
    given = start.last(flag)
    try:
        return float(given.values[-1]) if given and given.values else None
    except ValueError:
        return None
