"""Refuse values of flags that vLLM's own parser refuses: of the wrong type, not among the choices, too many or none.

Only types with known rules are checked. Choices are checked only if vLLM accepts no other value. vLLM's parser is argparse;
the types are those of get_kwargs in its engine/arg_utils.py (0.15 to 0.33).
"""

from __future__ import annotations

import json
import re
import shlex
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import config_file, flags, json_notation
from vllm_magic.engine.start_checks.planned_start import NO_VALUE
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.flags.flag_table import FlagOption
    from vllm_magic.engine.flags.given import GivenFlag
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

MOST_CHOICES = 20  # choices that a message lists, at most
CUTOFF = 0.6  # how similar a value and a choice must be, as a ratio of difflib
LONGEST_VALUE = 100  # characters of a value that a message quotes, at most
GPU_MEMORY = "--gpu-memory-utilization"
_SHARE = re.compile(r"0\.[5-9]\d*")  # rather a share of the memory than GPUs: 0,9
_GPUS = re.compile(r"\d+(,\d+)+")
# Other names of types of numbers, with those of vLLM.
_ALIASES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "float8": "fp8"}
_JSON = ("loads", "parse_dataclass")
# The flags whose JSON must be an object, and the flag whose values must be names, in vLLM 0.15 to 0.33.
_OBJECTS = (
    "--override-generation-config",
    "--limit-mm-per-prompt",
    "--mm-processor-kwargs",
    "--speculative-config",
    "--hf-overrides",
)
_NAMES = "--served-model-name"
_AMOUNTS = ("human_readable_int", "human_readable_int_or_auto")
_NUMBERS = ("int", "float", *_AMOUNTS)
_AMOUNT = re.compile(r"\d+[KMGT]|\d+(\.\d+)?[kmgt]")
_UNIT = re.compile(r"(?<=[\dkKmMgGtT])(i?[bB]|tokens)$")
_GIB = re.compile(r"(?<=\d)gi?b?$", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
# Where vLLM accepts JSON and other texts (union_dict_and_str), it reads a text with braces as JSON.
_OBJECT = re.compile(r"\s*\{.*\}\s*", re.DOTALL)


def check(start: PlannedStart) -> None:
    """Check the values of all flags of the spec. Do nothing if the flags of this vLLM are not known for certain.

    Raises:
        InvalidOption: vLLM would refuse the values of some flags.
    """
    spec = start.spec
    if start.is_omni:
        return
    in_file = len(spec.in_file or ())
    problems = []
    for flag in start.given:
        if problem := find(flag):
            what, what_to_do = problem
            place = f" (in {flags.value(spec.args, config_file.FLAG)})" if flag.position < in_file else ""
            problems.append(f"{what}{place}. {what_to_do}")
    if problems:
        raise InvalidOption(*problems)


def find(flag: GivenFlag) -> tuple[str, str] | None:
    """Return what is wrong with the values of a flag, and what to do; None if vLLM may accept them."""
    option, name = flag.option, flag.written
    if option.nargs == "0" and (flag.is_joined or flag.left_over):
        value = f"={flag.values[0]}" if flag.is_joined else f" {flag.left_over[0]}"
        return _quoted(f"{name}{value}: {name} is a switch, and takes no value"), _switch(option)
    if not flag.values and option.nargs in ("1", "+"):
        return f"{name} has no value", f"Write {flag.written} {_example(option)}."
    for value in flag.values:
        if problem := _wrong_value(flag, value):
            return problem
    if flag.left_over and option.nargs == "1":
        words = " ".join([*flag.values, *flag.left_over])
        meant = json_notation.suggestion(words) if words[0] in "{[" else None
        what_to_do = (
            f"Leave out {_quoted(' '.join(flag.left_over))}."
            if option.strict or option.type in _NUMBERS
            else f"Put a value with blanks in quotes: {flag.written} {_quoted(meant or shlex.quote(words))}."
        )
        return f"{_quoted(f'{name} {words}')}: {name} takes one value", what_to_do
    return None


def _wrong_value(flag: GivenFlag, value: str) -> tuple[str, str] | None:
    option = flag.option
    shown = _quoted(f"{flag.written} {value or shlex.quote(value)}")
    if value in NO_VALUE and _NAMES in option.strings:
        return f"{shown} is no name", "Give a name, or leave it out: then the model's name is used."
    if value in NO_VALUE and _may_be_no_value(option):
        return None
    if _is_read_as_json(option, value):
        return _wrong_json(flag, value)
    if not _is_number(option.type, value):
        kind = "number" if option.type == "float" else "whole number"
        meant = _as_number(option, value)
        example = f", such as {_example(option)}" if option.type != "int" else ""
        what_to_do = f"Write {flag.written} {meant}." if meant else f"Give a {kind}{example}."
        if GPU_MEMORY in option.strings and _GPUS.fullmatch(value):  # vLLM reads --gpu as this flag
            share = meant if _SHARE.fullmatch(meant) else _example(option)
            what_to_do = f"Write {GPU_MEMORY} {share}, or --gpus {value} to choose GPUs."
        return f"{shown} is not a {kind}", what_to_do
    if option.strict and option.type in ("str", "int", "float") and not _is_choice(option, value):
        return f"{shown} is not among the values that vLLM accepts", _choices(option.choices, value)
    return None


def _is_read_as_json(option: FlagOption, value: str) -> bool:
    if option.type == "union_dict_and_str":
        return _takes_object(option) or bool(_OBJECT.fullmatch(value))
    return option.type in _JSON


def _takes_object(option: FlagOption) -> bool:
    return any(name in option.strings for name in _OBJECTS)


def _wrong_json(flag: GivenFlag, value: str) -> tuple[str, str] | None:
    option = flag.option
    shown = _quoted(f"{flag.written} {value or shlex.quote(value)}")
    if json_notation.is_json(value, with_amounts=option.type == "parse_dataclass"):
        if not _takes_object(option) or _OBJECT.fullmatch(value):
            return None
        return f"{shown} is not a JSON object", f"Write {flag.written} {_example(option)}, with the quotes."
    meant = _as_list(option, value) or json_notation.suggestion(" ".join([value, *flag.left_over]))
    return f"{shown} is not JSON", f"Write {flag.written} {meant or _example(option)}, with the quotes."


def _may_be_no_value(option: FlagOption) -> bool:
    """Whether vLLM may read "" and "None" as no value."""
    is_refused = option.type in (*_NUMBERS, "loads") or (option.type == "str" and option.strict)
    return option.optional or not is_refused


def _is_number(kind: str, text: str) -> bool:
    """Whether the text is a number for vLLM; True for a type that is not that of a number."""
    if kind in _AMOUNTS:
        text = text.strip()
        if _AMOUNT.fullmatch(text) or (kind == "human_readable_int_or_auto" and text.lower() == "auto"):
            return True
    if kind not in _NUMBERS:
        return True
    try:
        (float if kind == "float" else int)(text)
    except ValueError:
        # Some versions of Python refuse very long numbers, and others accept them.
        return text.isdecimal() and len(text) > flags.LONGEST_NUMBER
    return True


def _is_choice(option: FlagOption, value: str) -> bool:
    if option.type == "str":
        return value in option.choices
    return float(value) in {float(choice) for choice in option.choices if choice != "None"}


def _choices(choices: Sequence[str], value: str) -> str:
    known = [choice for choice in choices if choice not in NO_VALUE]
    by_lower = {choice.lower(): choice for choice in known}
    name = _ALIASES.get(value.lower(), value.lower())
    near = get_close_matches(name, by_lower, 1, CUTOFF)
    meant = f"Did you mean {by_lower[near[0]]}? " if near else ""
    if len(known) > MOST_CHOICES:
        return meant.strip() or f"Choose one of {', '.join(known[:MOST_CHOICES])}, ..."
    *others, last = known
    return f"{meant}Choose from {', '.join(others)} or {last}." if others else f"{meant}Choose {last}."


def _as_number(option: FlagOption, value: str) -> str:
    """Return the number in a notation of vLLM: "8192" for "8,192", "32k" for "32kb", "0.9" for "90%"; "" if none is certain."""
    dense = value.strip().replace(" ", "")
    percent = dense.removesuffix("%")
    amount = flags.amount(dense) if option.type != "float" else None  # --cpu-offload-gb counts in GiB
    candidates = [
        dense.replace(",", "") if _THOUSANDS.fullmatch(dense) else "",
        dense.replace(",", ".") if option.type == "float" else "",
        dense.replace(",", " ") if option.nargs == "+" else "",
        f"{float(percent) / 100:g}"
        if percent != dense and percent.isdecimal() and option.type == "float"
        else "",
        dense.lower(),
        _UNIT.sub("", dense),
        _GIB.sub("", dense) if any(string.endswith("-gb") for string in option.strings) else "",
        str(amount) if amount is not None else "",
    ]
    return next((text for text in candidates if text and _are_numbers(option, text)), "")


def _are_numbers(option: FlagOption, text: str) -> bool:
    return all(_is_number(option.type, word) for word in text.split())


def _as_list(option: FlagOption, value: str) -> str:
    """Return a JSON list of the words, if the flag takes a list and the value has no brackets; else ""."""
    if not option.default.startswith("[") or set("[]{}\"'") & set(value):
        return ""
    return shlex.quote(json.dumps([word.strip() for word in value.split(",")]))


def _example(option: FlagOption) -> str:
    if option.type in (*_JSON, "union_dict_and_str"):
        return """'["VALUE"]'""" if option.default.startswith("[") else """'{"KEY": VALUE}'"""
    if option.type in _AMOUNTS:
        return "8192 or 8k"
    default = option.default
    if option.type in _NUMBERS:
        return "NUMBER" if default in NO_VALUE else default
    return default if default not in NO_VALUE and not set(" [{") & set(default) else "VALUE"


def _switch(option: FlagOption) -> str:
    negative = next((string for string in option.strings if string.startswith("--no-")), "")
    return f"Write {option.strings[0]} alone{f', or {negative} for the opposite' if negative else ''}."


def _quoted(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
