"""Refuse flags that this vLLM does not have, and say what to write in their place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import config_file, flags, other_versions
from vllm_magic.engine.flags.flag_table import FlagTable, plain
from vllm_magic.engine.start_checks.planned_start import OMNI
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

MOST_LISTED = 4  # flags that a message lists for an ambiguous flag, at most
_ONE_DASH = re.compile(r"-[a-z][a-z-]{2,}")


def check(start: PlannedStart) -> None:
    """Check that this vLLM has all flags of the spec. Do nothing if its flags are not known for certain.

    Raises:
        InvalidOption: this vLLM does not have some of the flags, or some are ambiguous.
    """
    table, spec = start.table, start.spec
    if table is None:
        return
    # vLLM leaves out a switch that is false in the file, unless vLLM has the flag with --no- (load_config_file).
    in_file = [word for word in spec.in_file or () if not word.startswith("--no-")]
    problems = []
    for args, place in ((in_file, f" (in {start.value(config_file.FLAG)})"), (spec.args, "")):
        instead = {flag: _instead(flag, table) for flag in find(args, table)}
        instead.update((flag, _ambiguous(flag, table)) for flag in find_ambiguous(args, table))
        problems += [
            f"vLLM {table.version} has no flag {flag}{place}{rest}" for flag, rest in instead.items()
        ]
    if problems:
        raise InvalidOption(*problems)


def find(args: Sequence[str], table: FlagTable) -> list[str]:
    """Return the flags that vLLM certainly does not have.

    vLLM accepts the beginning of a flag for the flag, underscores for dashes, and ``--flag.key value`` for JSON.
    """
    return [flag for flag in _flags(args) if not _may_be_known(flag, table)]


def find_ambiguous(args: Sequence[str], table: FlagTable) -> list[str]:
    """Return the long flags that are ambiguous: several flags begin with each. argparse refuses such a flag."""
    return [flag for flag in _flags(args) if flag.startswith("--") and len(_with_prefix(flag, table)) > 1]


def _flags(args: Sequence[str]) -> list[str]:
    """Return the flags of a command line up to ``--``, without values and keys of JSON."""
    found: list[str] = []
    if OMNI in args:
        return found
    arguments = iter(args)
    for argument in arguments:
        if argument == "--":
            break
        flag, equals, _ = argument.partition("=")
        name, dot, _ = flag.partition(".")
        if dot and not equals and argument.startswith("-"):
            next(arguments, None)  # the key's value, which may begin with dashes
        # argparse treats an argument with a blank as a value.
        if argument.startswith("-") and " " not in argument:
            found.append(name)
    return found


def _may_be_known(name: str, table: FlagTable) -> bool:
    if name.startswith("--"):
        return any(plain(known).startswith(plain(name)) for known in table.by_string)
    # The flag may be a long flag without its second dash. argparse reads -quantization as -q with a value.
    is_misspelled = _ONE_DASH.fullmatch(name) and f"-{name}" in table.by_string
    return not is_misspelled or any(known in (name[:2], name) for known in table.by_string)


def _with_prefix(name: str, table: FlagTable) -> list[str]:
    """Return a name of each option that begins with this text; [] if the text is a flag itself."""
    if table.find(name):
        return []
    options = {
        id(option): string
        for string, option in table.by_string.items()
        if plain(string).startswith(plain(name))
    }
    return sorted(options.values())


def _instead(flag: str, table: FlagTable) -> str:
    """Return the rest of the message for an unknown flag: what to write in its place."""
    if not flag.startswith("--"):
        return f". Write -{flag}, with two dashes."
    if advice := other_versions.advice(flag, table.by_string, table.version):
        return advice
    if plain(flag) in flags.OWN:  # in a call, or after "--"
        argument = "wait=False" if plain(flag) == "--no-wait" else f"{flag.strip('-')}="
        return f". It is an option of vllm_magic: in a call, write {argument}."
    if near := flags.similar(plain(flag), [*flags.OWN, *_long(table)], 1):
        return f". Did you mean {near[0]}?"
    return ". If a plugin adds it while vLLM starts, --force starts the server all the same."


def _ambiguous(flag: str, table: FlagTable) -> str:
    """Return the rest of the message for an ambiguous flag."""
    if advice := other_versions.advice(flag, table.by_string, table.version):
        return advice
    matches = _with_prefix(flag, table)
    *others, last = matches[:MOST_LISTED]
    more = " and more" if len(matches) > MOST_LISTED else ""
    return f", and several begin with it: {', '.join(others)} and {last}{more}. Write the whole flag."


def _long(table: FlagTable) -> list[str]:
    return [string for option in table.options for string in option.strings if string.startswith("--")]
