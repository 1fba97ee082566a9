"""Check the arguments of the Python API, and convert them for the rest of the package.

Several forms of an argument are accepted: ``gpus=[0, 1]``, ``port="8000"``, ``keep="10m"``, a ``Path``. All other values
raise `InvalidOption`, with one line that names the argument, the value, and the valid values. A value that may contain a key
is never quoted, and becomes a `Secret`, so that a traceback with variables does not show it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from numbers import Real
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.errors import InvalidOption
from vllm_magic.masking import Secret, mask, mask_words

if TYPE_CHECKING:
    from typing import TypeGuard

QUOTED = 60  # characters of a text that an error quotes
MOST_LINES = 10**9  # lines of a log
_LARGE = 10**18  # larger numbers are not quoted: Python does not write numbers of more than 4,300 digits
_WHOLE = re.compile(r"\s*(\d{1,18})\s*", re.ASCII)
_TIME = 'seconds, or a text such as "90s", "30m" or "1h30m"'


def model(given: object) -> str:
    """Return a model: a Hugging Face name, or a folder. A relative `pathlib.Path` gets "./" before it."""
    if isinstance(given, str):
        return str(given)
    folder = path("model", given, 'a Hugging Face name or a folder, as text: "Qwen/Qwen3-0.6B"')
    return folder if folder.startswith((".", "~", "/")) else f"./{folder}"


def text(option: str, given: object, wanted: str) -> str:
    """Return a text.

    Args:
        option: the name of the argument.
        given: its value.
        wanted: a description of valid values, for the error.
    """
    if not isinstance(given, str):
        raise _refused(option, given, wanted)
    return str(given)


def texts(option: str, given: object) -> list[str]:
    """Return a list of texts, from any iterable."""
    several = list(given) if isinstance(given, Iterable) and not isinstance(given, Mapping) else [None]
    found = [item for item in several if isinstance(item, str)]
    if len(found) < len(several):
        raise InvalidOption(f"{option}: Give a text, or a list of texts.")
    return found


def name(given: object) -> str | None:
    """Return the name of a server, or None."""
    return None if given is None else text("name", given, "the name of a server, as text")


def path(option: str, given: object, wanted: str = "a path, as text or pathlib.Path") -> str:
    """Return a path as text. Arguments as for `text`."""
    found = os.fspath(given) if isinstance(given, os.PathLike) else given
    return text(option, found, wanted)


def words(given: Iterable[object]) -> tuple[str, ...]:
    """Return the words of a command line. Numbers and paths become text, and keys become `Secret`."""
    found = [_word(item) for item in given]
    check_characters(found)
    return tuple(
        Secret(word) if shown != word else word for word, shown in zip(found, mask_words(found), strict=True)
    )


def check_characters(words: Iterable[str]) -> None:
    """Check that a program can be given these words.

    Raises:
        InvalidOption: a word has a character that no command line can have.
    """
    whole = "".join(words)
    if "\0" in whole:
        raise InvalidOption("No word may hold a NUL character. Leave it out.")
    try:
        os.fsencode(whole)
    except UnicodeEncodeError:
        raise InvalidOption("A word holds half a character (a lone surrogate). Leave it out.") from None


def environment(given: object) -> dict[str, str]:
    """Return environment variables, sorted by name. Errors do not quote their values."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidOption(f'env is {_kind(given)}. Give a dict: env={{"NAME": "VALUE"}}.')
    for variable, value in given.items():
        if not isinstance(variable, str) or not variable or {"=", "\0"} & set(variable):
            shown = variable.partition("=")[0] if isinstance(variable, str) else variable
            raise InvalidOption(
                f"env has a variable called {_shown(shown)}. A name is a text, not empty and without '='."
            )
        if not (isinstance(value, (str, os.PathLike)) or _is_number(value)):
            raise InvalidOption(
                f"env[{_shown(variable)}] is {_kind(value)}. Give a text, or leave the variable out."
            )
    return {str(variable): Secret(_word(value)) for variable, value in sorted(given.items())}


def gpus(given: object) -> str | None:
    """Return GPUs as the text for `gpu.choice.choose`; None to let vLLM choose."""
    if given is None:
        return None
    several = isinstance(given, Collection) and not isinstance(given, (str, bytes, bytearray, Mapping))
    named = [_gpu(item) for item in (given if several else [given])]  # type: ignore[attr-defined]
    if not named or None in named:
        raise _refused("gpus", given, 'an index, a list of indices or UUIDs, "0,1" or "auto"')
    return ",".join(filter(None, named))


def port(given: object) -> int | None:
    """Return a TCP port; None for a free port."""
    if given is None:
        return None
    found = _whole(given)
    if found is None or not 0 < found < 65536:  # noqa: PLR2004 - TCP
        raise _refused("port", given, "a port is a number from 1 to 65535; leave it out for a free one")
    return found


def seconds(option: str, given: object) -> float:
    """Return a duration in seconds, which may be `math.inf`."""
    found = -1.0
    if isinstance(given, timedelta):
        found = given.total_seconds()
    elif isinstance(given, str):
        try:
            found = durations.parse(given.strip())
        except ValueError:
            raise _refused(option, given, _TIME) from None
    elif _is_number(given):
        try:
            found = float(given)
        except OverflowError:
            raise _refused(option, given, _TIME) from None
    if not found >= 0:  # also for NaN
        raise _refused(option, given, _TIME)
    return found


def finite_seconds(option: str, given: object) -> float:
    """Return a duration in seconds, `durations.MOST` at most."""
    found = seconds(option, given)
    if found > durations.MOST:
        raise _refused(option, given, f"{_TIME}; {durations.MOST} seconds at most")
    return found


def seconds_or_none(option: str, given: object) -> float | None:
    """Return a duration in seconds, or None, which has its own meaning for the caller."""
    return None if given is None else seconds(option, given)


def limit(option: str, given: object) -> float:
    """Return a time limit in seconds; `durations.MOST` for None, which means no limit, as in httpx."""
    found = durations.MOST if given is None else seconds(option, given)
    if not found:
        raise _refused(option, given, f"{_TIME}; None for no limit")
    return min(found, durations.MOST)


def count(option: str, given: object) -> int:
    """Return a number of lines, 1 or more."""
    found = _whole(given)
    if not found or found < 1:
        raise _refused(option, given, "a whole number, 1 or more")
    return min(found, MOST_LINES)


def yes_or_no(option: str, given: object) -> bool:
    """Return a truth value."""
    if not (isinstance(given, bool) or _whole(given) in (0, 1)) or isinstance(given, str):
        raise _refused(option, given, "True or False")
    return bool(given)


def _word(given: object) -> str:
    if isinstance(given, (list, tuple, set)):
        raise InvalidOption(
            f"A flag is {_kind(given)}. Give each word as an argument of its own: start(model, *words)."
        )
    if isinstance(given, str):
        return given
    if isinstance(given, os.PathLike) and isinstance(found := os.fspath(given), str):
        return found
    if not _is_number(given):
        raise InvalidOption(f'A flag is {_kind(given)}. Give each word as a text: "--max-model-len", "4096".')
    return str(given)


def _gpu(given: object) -> str | None:
    if isinstance(given, str):
        return given.strip() or None
    index = _whole(given)
    return str(index) if index is not None and 0 <= index < _LARGE else None


def _whole(given: object) -> int | None:
    """Return a whole number, also from text or a float; None for all other values."""
    if isinstance(given, str):
        written = _WHOLE.fullmatch(given)
        return int(written[1]) if written else None
    if not _is_number(given):
        return None
    with suppress(OverflowError):  # larger than any float
        if float(given).is_integer():
            return round(float(given))
    return None


def _is_number(given: object) -> TypeGuard[Real]:
    return isinstance(given, Real) and not isinstance(given, bool)


def _refused(option: str, given: object, wanted: str) -> InvalidOption:
    return InvalidOption(f"{option}={_shown(given)}: {wanted[:1].upper()}{wanted[1:]}.")


def _shown(given: object) -> str:
    """Return a short, masked text of the value; for values of other types only the name of the type."""
    if type(given) is str:
        return repr(mask(given)[:QUOTED])
    if given is None or type(given) in (bool, float) or (type(given) is int and abs(given) < _LARGE):
        return repr(given)
    return _kind(given)


def _kind(given: object) -> str:
    return "None" if given is None else f"of type {type(given).__name__}"
