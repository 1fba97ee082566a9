"""A sign of a failure in vLLM's log: a pattern, the cause, and a hint.

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
    """A sign of one failure.

    Attributes:
        pattern: the regular expression. It must not begin with a repetition, and every repetition that is not at its end
            must have an upper bound, so that no line takes more than a few milliseconds.
        cause: what happened.
        hint: what to do about it.
        port_taken: whether another process has the server's TCP port.
        transient: whether the same start is likely to succeed if it is tried again at once.
        general: whether this sign counts only if the log has no sign that is not general.
        kernel: whether a kernel failed. What called it, as the traceback shows, is then a part of the hint.
    """

    pattern: str
    cause: str | MessageFunction
    hint: str | MessageFunction
    port_taken: bool = False
    transient: bool = False
    general: bool = False
    kernel: bool = False
