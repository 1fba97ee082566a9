"""A sign of a failure in vLLM's log: its pattern, its cause, and its hint.

Patterns are searched in lines without the prefix of logging (see `tracebacks`); ``^`` and ``$`` match at the ends of a line.
Cause and hint are format strings for the groups of the match, or functions of `hints` and `machine_hints`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import TypeAlias

    from vllm_magic.engine.failures.hints import HintContext

    MessageFunction: TypeAlias = Callable[[re.Match[str], HintContext], str]


@dataclass(frozen=True)
class Sign:
    """One failure.

    Attributes:
        pattern: the regular expression. It must not begin with a repetition, and every repetition that is not at its end
            must have an upper bound, so that no line takes more than a few milliseconds.
        cause: what happened.
        hint: what to do about it.
        port: whether the failure means that another process has the server's TCP port.
        passing: whether the same start is likely to succeed if it is tried again at once.
        general: whether every sign that is not general says more than this one.
    """

    pattern: str
    cause: str | MessageFunction
    hint: str | MessageFunction
    port: bool = False
    passing: bool = False
    general: bool = False
