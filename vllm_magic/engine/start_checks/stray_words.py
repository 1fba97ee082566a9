"""Refuse a word between the model and the first flag: vLLM's parser takes one model, and no other word that is no flag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

LONGEST_SHOWN = 100  # characters of a word that the message quotes
_LONG_DASHES = "\u2013\u2014"  # which a text editor writes in place of two dashes


def check(start: PlannedStart) -> None:
    """Check the word that follows the model.

    Raises:
        InvalidOption: it is no flag.
    """
    args = start.spec.args
    if start.is_omni or not args or args[0].startswith("-"):
        return
    word = args[0]
    if start.spec.model == "ollama" and word in ("run", "pull"):
        meant = "%vllm start MODEL starts a model, by its name on the Hub, such as Qwen/Qwen3-0.6B."
    elif word.startswith(tuple(_LONG_DASHES)):
        meant = f"Write --{word.lstrip(_LONG_DASHES)}, with two dashes."
    elif word.startswith("#"):
        meant = "A comment cannot follow on the same line."
    else:
        meant = "A flag begins with two dashes, and a name or path with blanks stands in quotes."
    raise InvalidOption(f"{word[:LONGEST_SHOWN]!r} follows the model, and is no flag. {meant}")
