"""Keys and tokens as ``***``, wherever text is shown.

What is secret is told by its form (``hf_...``, ``sk-...``), by the name before it (``api_key=``, ``"password":``),
or because it is known: the keys of servers, and what stands in variables with such names.

Text is masked where it comes in: lines of a log, titles of processes, messages of errors; and once more where it
is shown. Masking twice does no harm.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN = "***"
SHORTEST = 6  # characters; what is shorter is no secret, and would be found in half of the words
REMEMBERED = 100  # keys of servers, the latest of this process

_NAME = (
    r"(?i:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|secret|password|passwd|"
    r"(?:hf|hub|api|auth|access|session|refresh)[_-]?token)"
)
_BARE = r"""[^\s"',;)\]}]"""
_VALUE = rf"""(?:(?:\[[^\]]*\]|\\*"[^"]*"|'[^']*'){_BARE}*|{_BARE}+)"""

# What is in each text that the pattern fits, in small letters: most lines of a log have none of it, and cost little.
_SIGNS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    # Hugging Face, GitHub, OpenAI and those who write theirs like it, NVIDIA
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
)
_VARIABLE = r".*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)"
# vLLM takes a beginning of --api-key and --hf-token for the flag.
_SHORT = r"--(?:api[_-]ke?|hf[_-]t(?:o(?:ke?)?)?)"
_FLAG = rf"--?[\w-]*{_NAME}|{_SHORT}"
_FLAG_IN_TEXT = rf"((?:--[\w-]{{0,40}}?{_NAME}\s+|{_SHORT}(?:\s+|=))){_VALUE}"


_lock = threading.Lock()
_remembered: tuple[str, ...] = ()  # replaced as a whole, so that who reads it needs no lock


class Secret(str):
    """A text that is not shown where its variable is: a traceback of IPython's can show those of each frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        """As `SHOWN`."""
        return repr(SHOWN)


def remember(secret: str) -> None:
    """Have `mask` mask it from now on, whoever quotes it: the key of a server of this process."""
    global _remembered  # noqa: PLW0603 - errors are made anywhere
    if len(secret) >= SHORTEST:
        with _lock:
            _remembered = (*(one for one in _remembered if one != secret), str(secret))[-REMEMBERED:]


def mask(text: str, known: Iterable[str] = ()) -> str:
    """The text with `SHOWN` in place of each secret.

    Args:
        text: anything.
        known: secrets that have no form of their own, besides those to `remember`; those below `SHORTEST` characters
            are passed over.
    """
    for secret in sorted(
        (*known, *_remembered), key=len, reverse=True
    ):  # one may be the beginning of another
        if len(secret) >= SHORTEST:
            text = text.replace(secret, SHOWN)
    small = text.lower()
    for parts, pattern, shown in _SIGNS:
        if any(part in small for part in parts):
            text = re.sub(pattern, shown, text)
    return text


def mask_words(words: Iterable[str]) -> list[str]:
    """The words of a command line, masked; what stands behind ``--api-key`` and its like is a secret."""
    masked: list[str] = []
    behind = False
    for word in words:
        is_flag = word.startswith("-")
        if behind and not is_flag:  # vLLM takes several keys behind one flag
            masked.append(SHOWN)
            continue
        masked.append(re.sub(_FLAG_IN_TEXT, rf"\g<1>{SHOWN}", mask(word)))  # of `sh -c '...'`
        behind = is_flag and re.fullmatch(_FLAG, word) is not None
    return masked


def known(environ: Mapping[str, str]) -> list[str]:
    """The secrets among the variables, by their names; of a value with several lines each line."""
    return [
        line
        for name, value in environ.items()
        if re.fullmatch(_VARIABLE, name, re.IGNORECASE)
        for line in value.splitlines()
        if len(line) >= SHORTEST
    ]
