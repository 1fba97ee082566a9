"""The arguments in a line of ``%vllm``: the line is split as by a shell, and variables of the notebook are inserted.

IPython's own expansion leaves a whole line as it is, without an error, if the line holds one JSON value with braces. Here
each argument is expanded separately. ``$name`` and ``{expression}`` are replaced; an expression holds no brace, and it
begins with a name or calculates with numbers. JSON stays as it is, and an unknown name is an error.
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
    """Split a line into arguments.

    Raises:
        InvalidOption: a quotation is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidOption(
            f"{error}: each opening ' or \" needs a closing one. Put JSON in single quotes."
        ) from None


def expand(args: list[str], namespace: Mapping[str, Any]) -> list[str]:
    """Return the arguments with the values of variables inserted; a dict or list becomes JSON.

    Raises:
        InvalidOption: a name is not defined, or an expression fails.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return _text(match["name"] or match["expression"], match[0], namespace)

    expanded = []
    for position, arg in enumerate(args):
        try:
            expanded.append(_EXPANSION.sub(value, arg))
        except InvalidOption:
            flag = _secret_flag(args[: position + 1])
            if flag:  # the error must not quote a part of a secret
                raise InvalidOption(
                    f"The value of {flag} holds a name that is not defined, or an expression that fails. "
                    "Write $$ for a dollar sign."
                ) from None
            raise
    return expanded


def _secret_flag(args: list[str]) -> str:
    """Return the flag of the last argument if its value may be secret; else "".

    The last argument is the value after the flag, or has the form FLAG=VALUE.
    """
    *_, before, last = ["", *args]
    if before == "--env" or (before and mask_words([before, last])[1] == SHOWN != last):
        return before
    flag, equals, _ = last.partition("=")
    return flag if equals and (flag == "--env" or mask_words([last]) != [last]) else ""


def _text(expression: str, written: str, namespace: Mapping[str, Any]) -> str:
    """Return the value of an expression as text; ``written`` is what the user wrote, for an error."""
    try:
        if expression.isidentifier() and expression not in namespace:
            raise NameError(f"name {expression!r} is not defined")  # noqa: TRY301 - eval would find built-in names
        value = eval(expression, dict(namespace))  # noqa: S307 - the user's own code in the user's own kernel
        return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    except SyntaxError:
        raise InvalidOption(
            f"{written} is not a valid expression. JSON stands in single quotes, and its names in double quotes."
        ) from None
    except NameError as error:
        quotes = " Put quotes around an expression that contains quotes." if "[" in written else ""
        raise InvalidOption(
            f"{written}: {error}. Define it first, or write $$ for a dollar sign.{quotes}"
        ) from None
    except Exception as error:  # noqa: BLE001 - an expression can raise anything
        raise InvalidOption(f"{written}: {type(error).__name__}: {error}.") from None
