"""What helps against an error without a sign, by the kind of its message.

What vLLM refuses on purpose says so in its message; other errors are mostly faults.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class ErrorKind(NamedTuple):
    """A kind of error.

    Attributes:
        message: the regular expression for the name of the exception and its message.
        hint: what helps against all errors of this kind.
    """

    message: str
    hint: str


_REFUSED = (
    r"(?:(?:\bnot|n't)(?: yet| currently)?(?: be)?|\bun) ?(?:support|implement|compatible|available)|\bincompatible\b|"
    r"\bonly (?:be )?(?:support|implement|available|work|compatible)|\bsupports? only\b|\bcan(?:not|'t) be used|\bmutually exclusive"
)
_MACHINE = r"\b(?:GPUs?|CUDA|ROCm|XPU|CPU|[Dd]evices?|[Pp]latforms?|SM ?\d{2,3}|sm_\d{2,3}|Hopper|Blackwell|Ampere|[Cc]apability)\b"

KINDS = (
    ErrorKind(
        rf"(?:{_REFUSED}).{{0,300}}{_MACHINE}|{_MACHINE}.{{0,300}}(?:{_REFUSED})",
        "this GPU or this build of vLLM cannot do it: leave out the option or the variable VLLM_... that asks for it, choose a model "
        "that is quantized otherwise, or try a newer vLLM",
    ),
    ErrorKind(
        rf"{_REFUSED}|^NotImplementedError\b",
        "this vLLM cannot do that with this model and these options: leave out the option or the variable VLLM_... that asks for it, "
        "or try a newer vLLM",
    ),
    ErrorKind(
        r"\b(?:model|hf|text|vision)_?(?: |-)?config\b|\bconfig\.json\b|(?<!CUDA )\b[Aa]rchitectures?\b",
        "this vLLM may not know this form of the model: try a newer vLLM, and the transformers that the model's page names",
    ),
    ErrorKind(
        r"^(?:\w{1,60}\.)?(?:AttributeError|UnboundLocalError|NameError|IndexError|ZeroDivisionError|TypeError|KeyError|AssertionError|"
        r"StopIteration)\b|INTERNAL ASSERT FAILED|\bshapes? .{1,100} invalid|shapes cannot be multiplied|\bsizes? .{1,100}(?:match|expand)|"
        r"[Ss]ize mismatch|[Ee]xpected (?:size|shape|tensor|all tensors)|(?:too many|not enough) values|out of (?:range|bounds)",
        "this is often a fault of this version of vLLM with such a model or option: try a newer one",
    ),
)


def what_helps(error: str) -> list[str]:
    """Return a clause that says what helps against errors of this kind; [] if the kind is not known.

    Args:
        error: the error's message, with the name of its exception if that name says something.
    """
    return next(([kind.hint] for kind in KINDS if re.search(kind.message, error)), [])
