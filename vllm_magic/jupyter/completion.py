"""Completion of ``%vllm`` lines and of the first line of ``%%vllm`` cells, in a notebook and in a terminal.

It is a matcher of IPython's completer (its API of version 2, from IPython 8.6 on), which both of them ask; an older
IPython completes nothing of ours. Until the cursor stands in such a line it looks at one line of text, and imports nothing.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.jupyter.magics import VllmMagics
    from vllm_magic.jupyter.values import Candidate

IDENTIFIER = "vllm_magic"
PRIORITY = 1000  # before IPython's own ones, which need not run then
_LINE = re.compile(r"(?:[^%#]*=)?\s*%vllm\s+(.*)")  # also "server = %vllm start"
_CELL = re.compile(r"\s*(%%vllm\b.*)")


def add(shell: InteractiveShell, magics: VllmMagics) -> None:
    """Complete ``%vllm`` lines in this shell, if its IPython can."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except (
        ImportError
    ):  # before 8.6; Google Colab's runtime breaks where another one than its 7.34 is installed
        return
    spelled = _unbroken if hasattr(shell, "kernel") else str

    @context_matcher(identifier=IDENTIFIER, priority=PRIORITY)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> dict[str, Any]:
        said = _said(context)
        part, found = ("", []) if said is None else _complete(said, magics.executable)
        if not found:
            return {"completions": []}
        return {
            "completions": [SimpleCompletion(one.text, type=spelled(one.about)) for one in found],
            "matched_fragment": part,
            "ordered": True,
            "suppress": True,
        }

    shell.Completer.custom_matchers.append(match)


def remove(shell: InteractiveShell) -> None:
    """Complete them no more."""
    matchers = getattr(shell.Completer, "custom_matchers", [])
    matchers[:] = [one for one in matchers if getattr(one, "matcher_identifier", None) != IDENTIFIER]


def _unbroken(text: str) -> str:
    """JupyterLab's menu would break what stands beside an entry at each of these, and draw its lines on each other."""
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-", "\N{NON-BREAKING HYPHEN}")


def _said(context: CompletionContext) -> str | None:
    """What stands between ``%vllm`` and the cursor, also over several lines; None in any other line.

    Of a ``%%vllm`` cell it is its first line, ``%%vllm`` among it; what follows is said to a model.
    """
    lines = context.full_text.split("\n")[: context.cursor_line + 1]
    text = lines.pop()[: context.cursor_position]
    above = list(filter(str.strip, lines))
    if cell := _CELL.match(above[0] if above else text):
        return None if above else cell[1]
    while lines and lines[-1].endswith("\\"):
        text = f"{lines.pop()[:-1]} {text}"
    found = _LINE.fullmatch(text)
    return found[1] if found else None


def _complete(said: str, executable: str) -> tuple[str, list[Candidate]]:
    from vllm_magic.jupyter import candidates, usage
    from vllm_magic.jupyter.help import HELP

    typed = re.split(r"\s", said)[-1]
    try:
        words = shlex.split(said.removesuffix(typed))
        return candidates.find(candidates.Line(tuple(words), typed, executable or None), usage.read(HELP))
    except Exception:  # noqa: BLE001 - an open quotation, a disk that fails: a completion never complains
        return "", []
