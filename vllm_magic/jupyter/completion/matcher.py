"""Completion of ``%vllm`` lines and of the first line of ``%%vllm`` cells, in a notebook and in a terminal.

Both use IPython's completer. For IPython 8.6 and newer, `add` registers a matcher of version 2, which sees the whole cell. An older
IPython (Google Colab has 7.34) calls a function for the arguments of magics with the line of the cursor: there the completion of
a continued line is not possible, and the menu has no descriptions. A line without ``%vllm`` causes no imports.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.jupyter.completion.values import Candidate
    from vllm_magic.jupyter.magics import VllmMagics

IDENTIFIER = "vllm_magic"
PRIORITY = 1000  # higher than that of IPython's own matchers, so that their completions are suppressed
_LINE = re.compile(r"(?:[^%#]*=)?\s*%vllm\s+(.*)")  # also "server = %vllm start"
_CELL = re.compile(r"\s*(%%vllm\b.*)")


def add(shell: InteractiveShell, magics: VllmMagics) -> None:
    """Register the completion of ``%vllm`` lines in this shell."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:  # before 8.6; Google Colab's runtime works with IPython 7.34 alone
        shell.Completer.magic_arg_matchers.append(_of_arguments(shell.Completer, magics))
        return
    spelled = _without_breaks if hasattr(shell, "kernel") else str

    @context_matcher(identifier=IDENTIFIER, priority=PRIORITY)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> dict[str, Any]:
        text = _typed_text(context)
        part, candidates = ("", []) if text is None else _complete(text, magics.executable)
        if not candidates:
            return {"completions": []}
        return {
            "completions": [
                SimpleCompletion(candidate.text, type=spelled(candidate.about)) for candidate in candidates
            ],
            "matched_fragment": part,
            "ordered": True,
            "suppress": True,
        }

    shell.Completer.custom_matchers.append(match)


def remove(shell: InteractiveShell) -> None:
    """Remove the completion of ``%vllm`` lines from this shell."""
    for name in ("custom_matchers", "magic_arg_matchers"):  # IPython 7 and 8 have both
        matchers = getattr(shell.Completer, name, [])
        matchers[:] = [
            matcher for matcher in matchers if getattr(matcher, "matcher_identifier", None) != IDENTIFIER
        ]


def _of_arguments(completer: Any, magics: VllmMagics) -> Callable[[str], list[str]]:
    """Return the function for an IPython older than 8.6, which shows the returned texts alone, in their order.

    IPython splits words at more characters than a shell does, and replaces only the text after the last of them: of
    "--gpus 0,1" the "1".
    """

    def match(_line: str) -> list[str]:
        before: str = completer.text_until_cursor
        text = _text_of_line([before])
        if text is None:
            return []
        part, candidates = _complete(text, magics.executable)
        kept = part.removesuffix(completer.splitter.split_line(before))
        return [
            candidate.text.removeprefix(kept) for candidate in candidates if candidate.text.startswith(kept)
        ]

    match.matcher_identifier = IDENTIFIER  # type: ignore[attr-defined] # for `remove`, as `context_matcher` does
    return match


def _without_breaks(text: str) -> str:
    """Return the text with characters at which no line breaks: JupyterLab's menu draws broken lines over each other."""
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-", "\N{NON-BREAKING HYPHEN}")


def _typed_text(context: CompletionContext) -> str | None:
    """Return the text between ``%vllm`` and the cursor; None if the cursor is not in a ``%vllm`` line.

    Lines that end with a backslash are joined with the next line. In a ``%%vllm`` cell, the first line is returned with
    ``%%vllm``; the lines below are text for a model, so the result is None there.
    """
    lines = context.full_text.split("\n")[: context.cursor_line + 1]
    return _text_of_line([*lines[:-1], lines[-1][: context.cursor_position]])


def _text_of_line(lines: list[str]) -> str | None:
    """Return the result of `_typed_text` for these lines; the last line ends at the cursor."""
    text = lines.pop()
    above = list(filter(str.strip, lines))
    if cell := _CELL.match(above[0] if above else text):
        return None if above else cell[1]
    while lines and lines[-1].endswith("\\"):
        text = f"{lines.pop()[:-1]} {text}"
    found = _LINE.fullmatch(text)
    return found[1] if found else None


def _complete(text: str, executable: str) -> tuple[str, list[Candidate]]:
    from vllm_magic.jupyter.commands import registry
    from vllm_magic.jupyter.completion import candidates

    typed = re.split(r"\s", text)[-1]
    try:
        args = shlex.split(text.removesuffix(typed))
        return candidates.find(
            candidates.TypedLine(tuple(args), typed, executable or None), registry.declarations()
        )
    except Exception:  # noqa: BLE001 - an unclosed quotation mark or a failing disk gives no completions, and no error
        return "", []
