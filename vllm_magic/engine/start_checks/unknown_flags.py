"""Refuse flags that this vLLM does not have, before it is started.

A wrong refusal is worse than none, so a flag that vLLM might accept in some way is left for vLLM to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.engine.flags.flag_table import FlagTable, plain
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.start_checks.planned_start import PlannedStart

ELSEWHERE = "--omni"  # with this flag another package reads the command line (vLLM's entrypoints/cli/main.py)


def check(start: PlannedStart) -> None:
    """Check that this vLLM has all flags of the spec; do nothing if its flags are not known for certain.

    Raises:
        InvalidOption: this vLLM does not have one of the flags.
    """
    table = start.table
    flag = find(start.spec.args, table) if table else None
    if table and flag:
        near = flags.similar(plain(flag), _long(table), 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InvalidOption(
            f"vLLM {table.version} has no flag {flag}.{meant} --force starts it all the same."
        )


def find(args: Sequence[str], table: FlagTable) -> str | None:
    """Return the first long flag that vLLM does not have; None if vLLM has all of them, or may have.

    vLLM accepts the beginning of a flag for the flag, underscores for dashes, and ``--flag.key value`` for JSON.
    """
    if ELSEWHERE in args:
        return None
    known = [plain(string) for string in table.by_string]
    arguments = iter(args)
    for argument in arguments:
        if argument == "--":
            return None
        flag, equals, _ = argument.partition("=")
        name, dot, _ = flag.partition(".")
        if dot and not equals and argument.startswith("-"):
            next(arguments, None)  # the key's value, which may begin with dashes
        # argparse treats an argument with a blank as a value.
        is_flag = name.startswith("--") and " " not in argument
        if is_flag and not any(one.startswith(plain(name)) for one in known):
            return name
    return None


def _long(table: FlagTable) -> list[str]:
    return [string for option in table.options for string in option.strings if string.startswith("--")]
