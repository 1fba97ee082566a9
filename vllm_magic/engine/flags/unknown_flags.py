"""Flags that a vLLM does not have, said before it is started.

A refusal that is wrong is worse than none: whatever vLLM might take in some way is left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.engine.flags.flag_table import FlagTable, plain
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.spec import ServerSpec

ELSEWHERE = "--omni"  # with it another package has the command line (vLLM's entrypoints/cli/main.py)


def check(spec: ServerSpec, executable: str) -> None:
    """Refuse a flag that this vLLM does not have; say nothing where its flags are not known.

    Args:
        spec: what is to be started.
        executable: the absolute path of vLLM.

    Raises:
        InvalidOption: there is such a flag.
    """
    if spec.force or any(name in flag_table.OF_PYTHON for name, _ in spec.env):
        return
    table = flag_table.load(executable, certain=True)
    flag = find(spec.args, table) if table else None
    if table and flag:
        near = flags.meant(plain(flag), _long(table), 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InvalidOption(
            f"vLLM {table.version} has no flag {flag}.{meant} --force starts it all the same."
        )


def find(args: Sequence[str], table: FlagTable) -> str | None:
    """The first long flag that is none of vLLM's; None where all are, or may be.

    vLLM takes the beginning of a flag for the flag, underscores for dashes, and ``--flag.key value`` for JSON.
    """
    if ELSEWHERE in args:
        return None
    known = [plain(string) for string in table.by_string]
    words = iter(args)
    for word in words:
        if word == "--":
            return None
        flag, equals, _ = word.partition("=")
        name, dot, _ = flag.partition(".")
        if dot and not equals and word.startswith("-"):
            next(words, None)  # the key's value, which may begin with dashes
        is_flag = name.startswith("--") and " " not in word  # what holds a blank is a value for argparse
        if is_flag and not any(one.startswith(plain(name)) for one in known):
            return name
    return None


def _long(table: FlagTable) -> list[str]:
    return [string for string in table.by_string if string.startswith("--")]
