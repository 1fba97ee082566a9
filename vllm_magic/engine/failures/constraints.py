"""The value that an error asks for, from its message: "must be a multiple of 16", "Valid options are: ..."."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_LIST = 150  # characters of a list of values that are shown


class Constraint(NamedTuple):
    """A form in which messages tell which values they allow.

    Attributes:
        message: the regular expression.
        allowed: the allowed values in words; a format string for the groups of the match.
    """

    message: str
    allowed: str


_NUMBER = r"(-?\d{1,12}(?:\.\d{1,6})?)(?![\w.]*\w)"
_CONSTRAINTS = (
    Constraint(rf"must be (?:a )?(?:multiple of|divisible by) {_NUMBER}", "a multiple of {0}"),
    Constraint(rf"must be (?:between|in \[) ?{_NUMBER}(?:,| and) {_NUMBER}", "{0} to {1}"),
    Constraint(rf"must be (?:>=|at least|greater than or equal to) {_NUMBER}", "{0} or more"),
    Constraint(rf"must be (?:<=|at most|less than or equal to) {_NUMBER}", "{0} or less"),
    Constraint(r"must be (?:positive|> 0|greater than 0|a positive integer)\b", "1 or more"),
    Constraint(r"must be a power of (?:two|2)\b", "a power of 2"),
)
# Messages that name no flag, but what they are about, and what to do.
_REMEDIES = (
    (
        r"\b\w+=(\d{1,9}) must be divisible by (?:ep|tp|world)_size=\d",
        "Choose a number of GPUs that divides {0} (--tensor-parallel-size times --data-parallel-size)",
    ),
    (
        r"\b(\w{1,30}_pixels)=\d{1,15} is too (?:small\. At least|large\. At most) (\d{1,15})\b",
        "Add --mm-processor-kwargs '{{\"{0}\": {1}}}'",
    ),
)
_LIST = re.compile(
    r"(?:\b[Vv]alid (?:\w+ )?(?:are|is)|\b[Vv]alid \w+:|\b(?:[Ss]upported|[Aa]vailable) (?:\w+ ){1,3}are|"
    r"\b(?:[Ss]upported|[Aa]vailable)(?: \w+){1,3}:|(?:[Mm]ust|[Ss]hould) be (?:one|either|any) of|"
    r"[Ee]xpected (?:one|any) of|[Cc]hoose (?:from|one of))[: ]{1,3}[\[({]{0,2}([^\[\](){};]{1,1000})"
)


def what_it_asks(error: str, flags: Sequence[str]) -> list[str]:
    """Return a clause that says which values the error allows; [] if its message does not tell.

    A constraint counts only if a flag stands before it: others are mostly those of weights and tensors.

    Args:
        error: the error's message.
        flags: the flags that the message names.
    """
    if listed := _LIST.search(error):
        values = re.sub(r"['\"`<>]|: \d+(?=[,]|$)", "", listed[1].partition(". ")[0]).strip(" .,")
        flag = _last(flags, error[: listed.start()])
        if values and len(values) <= LONGEST_LIST:
            return [f"Choose from {values}{f' for {flag}, or leave it out' if flag else ''}"]
    for constraint in _CONSTRAINTS:
        match = re.search(constraint.message, error)
        flag = _last(flags, error[: match.start()]) if match else ""
        if match and flag:
            return [f"Set {flag} to {constraint.allowed.format(*match.groups())}, or leave it out"]
    for message, remedy in _REMEDIES:
        if match := re.search(message, error):
            return [remedy.format(*match.groups())]
    return []


def _last(flags: Sequence[str], text: str) -> str:
    """Return the flag that the text names last, as a flag, a field or in words; "" if it names none."""
    words = re.sub(r"[^a-z]+", " ", text.lower())
    places = {flag: f" {words} ".rfind(f" {flag.strip('-').replace('-', ' ')} ") for flag in flags}
    return max((flag for flag in places if places[flag] >= 0), key=places.__getitem__, default="")
