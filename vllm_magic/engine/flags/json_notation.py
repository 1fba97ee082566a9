"""JSON on a command line: whether vLLM can read a text as JSON, and which JSON the user probably meant if not."""

from __future__ import annotations

import ast
import json
import re
import shlex
from typing import Any

LONGEST = 2000  # characters of a text for which JSON is suggested, at most
LONGEST_SHOWN = 300  # characters of JSON that a message shows, at most
# Typographic quotation marks, which word processors and web pages have, and the straight ones in their place.
_STRAIGHT = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')
_STRING = re.compile(r'("(?:[^"\\]|\\.)*")')
_AMOUNT = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
_KEY_WITHOUT_BLANK = re.compile(r"([{,]\s*[\w.-]+):(?=\S)")
_PAIR = re.compile(r"([A-Za-z_][\w.-]*)[=:](.+)")


def is_json(text: str, *, with_amounts: bool = False) -> bool:
    """Whether vLLM may read the text as JSON.

    Args:
        text: the text.
        with_amounts: whether the text may have amounts, such as 80k (_expand_json_human_readable_numbers in vLLM's
            engine/arg_utils.py).
    """
    if with_amounts:
        parts = _STRING.split(text)
        parts[::2] = [_AMOUNT.sub("0", part) for part in parts[::2]]
        text = "".join(parts)
    try:
        json.loads(text, strict=False)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):  # vLLM's parser may have other limits
        return True
    return True


def suggestion(text: str) -> str | None:
    """Return the JSON that the user probably meant, quoted for a shell; None if it is not known.

    There is a suggestion for JSON whose quotation marks a shell removed, for Python's notation, and for ``image=2,video=1``.
    """
    text = text.strip().translate(_STRAIGHT)
    if not text or len(text) > LONGEST:
        return None
    meant = (_from_python(text) or _from_yaml(text)) if text[0] in "{[" else _from_pairs(text)
    shown = json.dumps(meant, ensure_ascii=False) if isinstance(meant, (dict, list)) else ""
    return shlex.quote(shown) if shown and len(shown) <= LONGEST_SHOWN else None


def _from_python(text: str) -> Any:
    """Return the value of the text as a literal of Python; None if the text is not a literal."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return value


def _from_yaml(text: str) -> Any:
    """Return the value of the text as YAML, in which quotation marks are optional; None if the text is no YAML."""
    from vllm_magic.engine.flags import bounded_yaml

    spaced = _KEY_WITHOUT_BLANK.sub(r"\1: ", text)
    try:
        value = bounded_yaml.load(spaced.encode())
        json.dumps(value, allow_nan=False)
    except Exception:  # noqa: BLE001 - PyYAML raises errors of any type for a value that does not fit its tag
        return None
    # A key without a value shows that the user meant something else.
    return None if isinstance(value, dict) and None in value.values() and "null" not in text else value


def _from_pairs(text: str) -> dict[str, Any] | None:
    """Return the value of a text such as ``image=2,video=1``; None for any other text."""
    pairs = [_PAIR.fullmatch(pair.strip()) for pair in text.split(",")]
    return {pair[1]: _value(pair[2].strip()) for pair in pairs if pair} if all(pairs) else None


def _value(text: str) -> Any:
    if text in ("True", "False"):  # as in Python
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        return text
