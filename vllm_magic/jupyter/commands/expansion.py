"""From the line behind ``%vllm`` to words: split as a shell does, then expanded one by one.

IPython's own expansion gives up, silently, on a line that holds one JSON value with braces. Here each word is
expanded by itself: ``{name}`` (any expression that begins with a name, or calculates with numbers, and holds no brace) and
``$name``. JSON is left as it stands, and an unknown name is an error.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import InvalidOption
from vllm_magic.masking import SHOWN, mask_words

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXPANSION = re.compile(
    r"\$\$|\$(?P<name>[A-Za-z_]\w*)|\{(?P<expression>[A-Za-z_][^{}]*|\d[^{}]*[-+*/%][^{}]*)\}"
)


def split(line: str) -> list[str]:
    """The words of the line.

    Raises:
        InvalidOption: a quotation is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidOption(f"{error}: each ' and \" needs its partner. Put JSON in single quotes.") from None


def expand(words: list[str], namespace: Mapping[str, Any]) -> list[str]:
    """The words with the notebook's variables put in; a dict or list becomes JSON.

    Raises:
        InvalidOption: a name that is not defined, or an expression that fails.
    """

    def put_in(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return _text(match["name"] or match["expression"], match[0], namespace)

    expanded = []
    for position, word in enumerate(words):
        try:
            expanded.append(_EXPANSION.sub(put_in, word))
        except InvalidOption:
            flag = _before_secret(words[: position + 1])
            if flag:  # a part of a key is not to be quoted
                raise InvalidOption(
                    f"What stands behind {flag} has a name that is not defined, or an expression that fails. "
                    "$$ is a plain dollar sign."
                ) from None
            raise
    return expanded


def _before_secret(words: list[str]) -> str:
    """The flag of which the last word is the value, where that may be secret; else ""."""
    *_, before, last = ["", *words]
    if before == "--env" or (before and mask_words([before, last])[1] == SHOWN != last):
        return before
    flag, equals, _ = last.partition("=")
    return flag if equals and (flag == "--env" or mask_words([last]) != [last]) else ""


def _text(expression: str, written: str, namespace: Mapping[str, Any]) -> str:
    try:
        if expression.isidentifier() and expression not in namespace:
            raise NameError(f"name {expression!r} is not defined")  # noqa: TRY301 - eval would find "max", "id"
        value = eval(expression, dict(namespace))  # noqa: S307 - the user's own words in the user's own kernel
        return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    except SyntaxError:
        raise InvalidOption(f"{written} is no expression. Put JSON in single quotes.") from None
    except NameError as error:
        quotes = " An expression with quotes in it goes between quotes." if "[" in written else ""
        raise InvalidOption(
            f"{written}: {error}. Define it first; $$ is a plain dollar sign.{quotes}"
        ) from None
    except Exception as error:  # noqa: BLE001 - an expression can raise anything
        raise InvalidOption(f"{written}: {type(error).__name__}: {error}.") from None
