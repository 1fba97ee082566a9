"""Whether a command line has only well-known flags with good values, so that it needs no check against this vLLM's own flags."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import given
from vllm_magic.engine.flags.common_flags import COMMON
from vllm_magic.engine.flags.flag_table import FlagTable
from vllm_magic.engine.start_checks import flag_values, unknown_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

_TABLE = FlagTable("", tuple(replace(option, strict=bool(option.choices)) for option in COMMON.options))
# Their values are names from lists that only vLLM itself has.
_FROM_A_LIST = ("--load-format", "--quantization", "--reasoning-parser", "--tool-call-parser")


def are(args: Sequence[str]) -> bool:
    """Whether every vLLM accepts these flags with these values."""
    return not (
        unknown_flags.find(args, _TABLE)
        or unknown_flags.find_ambiguous(args, _TABLE)
        or any(
            flag_values.find(flag) or set(flag.option.strings) & set(_FROM_A_LIST)
            for flag in given.read(args, _TABLE)
        )
    )
