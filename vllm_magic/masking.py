"""Replace keys and tokens by ``***`` in all text that is shown.

A secret is recognised by its form (``hf_...``, ``sk-...``), by the name before it (``api_key=``, ``"password":``), or by its
value: the keys of servers, and the values of environment variables with such names.

Text is masked where it is read (lines of a log, titles of processes, messages of errors) and again where it is shown.
Masking a text twice does no harm.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN = "***"
SHORTEST = 6  # characters; a shorter value is no secret, and would be a part of many ordinary words
REMEMBERED = 100  # the latest keys of servers in this process

_NAME = (
    r"(?i:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|secret|password|passwd|"
    r"(?:hf|hub|api|auth|access|session|refresh)[_-]?token)"
)
_BARE = r"""[^\s"',;)\]}]"""
# A value without a closing quote or bracket extends to the end of the text: a text that was cut may contain the beginning of
# a key. The search for the closing character takes no longer than the text, however many values begin in it.
_VALUE = rf"""(?:(?:\[[^\]]*(?:\]|\Z)|\\*"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)){_BARE}*|{_BARE}+)"""

# (parts, pattern, replacement). A text that the pattern matches has one of the parts, in lower case. Most lines of a log have
# none of the parts, and the patterns are not tried on them.
_SIGNS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    # Hugging Face and GitHub; below: OpenAI and services with the same form, NVIDIA
    (
        ("hf_", "api_org_", "gh"),
        r"(?:hf|api_org|gh[pousr]|github_pat)_[A-Za-z0-9]{20,}",
        SHOWN,
    ),
    (("sk-", "nvapi-"), r"(?<![\w-])(?:sk|nvapi)-[\w-]{8,}", SHOWN),
    (("bearer",), r"(\b[Bb]earer\s+)[\w.~+/=-]{8,}", rf"\g<1>{SHOWN}"),
    (("://",), r"(?<=://)[^\s/@:]*:[^\s/@]+@", f"{SHOWN}@"),  # user and password in a URL
    (
        ("key", "token", "secret", "passw"),
        rf"""({_NAME}\\*["']?\s*[:=]\s*|_(?:KEY|TOKEN|SECRET)=){_VALUE}""",
        rf"\g<1>{SHOWN}",
    ),
    # in JSON, where no other name than this says what the value is
    (("token",), rf"""(\\*["']token\\*["']\s*:\s*)(?=\\*["']){_VALUE}""", rf"\g<1>{SHOWN}"),
)
_VARIABLE = r".*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)"
# vLLM accepts these abbreviations of --api-key and --hf-token.
_SHORT = r"--(?:api[_-]ke?|hf[_-]t(?:o(?:ke?)?)?)"
_FLAG = rf"--?[\w-]*{_NAME}|{_SHORT}"
_FLAG_IN_TEXT = rf"((?:(?<!-)--[\w-]{{0,40}}?{_NAME}\s+|{_SHORT}(?:\s+|=))){_VALUE}"


# Each secret with a number that grows with each call of `remember`. There is no lock: a signal handler of the program may
# interrupt any thread that would hold it. Each single operation on a dict is atomic.
_remembered: dict[str, int] = {}
_numbers = count()


class Secret(str):
    """A string whose repr hides its value: a traceback of IPython can show the variables of each frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The repr of `SHOWN`."""
        return repr(SHOWN)


class SecretBytes(bytes):
    """Bytes whose repr hides their value. A `Secret` that is encoded, or put into other text, is a plain one."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The repr of `SHOWN`, as bytes."""
        return repr(SHOWN.encode())


def remember(secret: str) -> None:
    """Make `mask` replace this secret in every text from now on. For the keys of servers of this process."""
    if len(secret) >= SHORTEST:
        _remembered[str(secret)] = next(_numbers)
        while len(_remembered) > REMEMBERED:
            numbers = _remembered.copy()
            _remembered.pop(min(numbers, key=numbers.__getitem__), None)


def mask(text: str, known: Iterable[str] = ()) -> str:
    """Return the text with `SHOWN` in place of each secret.

    Args:
        text: any text.
        known: secrets that have no form of their own, besides those of `remember`. Secrets shorter than `SHORTEST`
            are ignored.
    """
    # The longest secrets come first, since a secret may be part of another.
    for secret in sorted((*known, *_remembered.copy()), key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, SHOWN)
    small = text.lower()
    for parts, pattern, shown in _SIGNS:
        if any(part in small for part in parts):
            text = re.sub(pattern, shown, text)
    return text


def mask_words(words: Iterable[str]) -> list[str]:
    """Return the masked words of a command line. The words after ``--api-key`` and similar flags are secrets."""
    masked: list[str] = []
    behind = False
    for word in words:
        is_flag = word.startswith("-")
        if behind and not is_flag:  # vLLM accepts several keys after one flag
            masked.append(SHOWN)
            continue
        masked.append(re.sub(_FLAG_IN_TEXT, rf"\g<1>{SHOWN}", mask(word)))  # of `sh -c '...'`
        behind = is_flag and re.fullmatch(_FLAG, word) is not None
    return masked


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Return the values of variables with names of secrets; each line of a value counts as a value."""
    return [
        line
        for name, value in environ.items()
        if re.fullmatch(_VARIABLE, name, re.IGNORECASE)
        for line in value.splitlines()
        if len(line) >= SHORTEST
    ]
