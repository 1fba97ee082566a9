"""The table of all flags and architectures of one vLLM, which `reader_child` wrote into the cache.

If the flags could not be read, the cache has the reason in place of a table. A reason is valid for a day at most, because the
cause may be outside vLLM, such as a missing library.

A table is valid until one of the files from which it was read changes: the executable, vLLM's metadata, or a module that
defines flags. So an update of vLLM, or a change in a checkout, makes the table invalid. A valid table is certain until a
package is installed beside vLLM, because that may be a plugin, which can add flags.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import cache

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = 5  # the version of the format that `reader_child` writes
FAILURE_LIMIT = 86400.0  # seconds after which flags that could not be read are read again
KIND = "flags"  # the folder in the cache
# The variables that select which vLLM, with which plugins, an executable runs.
SELECTING_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "VLLM_PLUGINS")
# The flags whose value is a path. The types of vLLM do not show it.
_PATH = re.compile(
    r"--(config|chat-template|uds|[a-z-]+-(config-path|path|dir|file|keyfile|certfile|ca-certs|plugin))"
)
_STRING = re.compile(r"--?[A-Za-z][\w-]*")
_KINDS = {
    "str": "text",
    "loads": "JSON",
    "parse_dataclass": "JSON",
    "union_dict_and_str": "text or JSON",
    "human_readable_int": "int",
    "human_readable_int_or_auto": "int",
    "check_port": "int",
    "bool": "switch",
}


@dataclass(frozen=True)
class FlagOption:
    """One option of a command line.

    Attributes:
        strings: the names of the option, such as --tensor-parallel-size and -tp.
        type: the name of the function that converts its value.
        choices: the allowed values; if other values are allowed too, the usual ones. For a parser, the names that vLLM and
            its installed plugins register.
        strict: whether vLLM refuses all values that are not among the choices.
        default: the default as text; "" for none.
        help: the first sentence of its help.
        nargs: how many values follow the option, as argparse counts them: "0", "1", "2", "?", "*" or "+".
        group: the group of options in vLLM's help to which it belongs.
        hidden: names that vLLM accepts too, but leaves out of its help.
        optional: whether vLLM may read "" and "None" as no value; False only if that is certain.
    """

    strings: tuple[str, ...]
    type: str = "str"
    choices: tuple[str, ...] = ()
    default: str = ""
    help: str = ""
    nargs: str = "1"
    group: str = ""
    hidden: tuple[str, ...] = ()
    strict: bool = False
    optional: bool = True

    @property
    def takes_value(self) -> bool:
        """Whether a value can follow the option."""
        return self.nargs != "0"

    @property
    def kind(self) -> str:
        """The kind of its value, in a word."""
        # The type of a lambda is no identifier.
        return _KINDS.get(self.type, self.type if self.type.isidentifier() else "text")

    @property
    def is_path(self) -> bool:
        """Whether the value is the path of a file or a folder."""
        return any(_PATH.fullmatch(string) for string in self.strings)


@dataclass(frozen=True)
class FlagTable:
    """All flags and architectures of one vLLM.

    Attributes:
        version: the version of vLLM; "" if it is not known.
        options: all options, in vLLM's own order.
        architectures: the names of the architectures that vLLM or the Transformers beside it have; () if they are not known.
        by_string: the options, by each of their names, the hidden ones too.
    """

    version: str
    options: tuple[FlagOption, ...]
    architectures: tuple[str, ...] = ()
    by_string: dict[str, FlagOption] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the options by their names here: Python 3.11 holds a lock while it computes a `functools.cached_property`."""
        by_string = {
            string: option for option in self.options for string in (*option.strings, *option.hidden)
        }
        object.__setattr__(self, "by_string", by_string)

    def find(self, flag: str) -> FlagOption | None:
        """Return the option with this name, or None. Underscores count as dashes, as in vLLM."""
        return self.by_string.get(plain(flag))


def plain(flag: str) -> str:
    """Return a long flag with dashes in place of underscores, as vLLM reads it (its utils/argparse_utils.py)."""
    return flag.replace("_", "-") if flag.startswith("--") else flag


def may_select_another(env: Iterable[tuple[str, str]]) -> bool:
    """Whether variables of ``--env`` may select another vLLM, or other plugins, than the environment of this process."""
    return any(name in SELECTING_VARIABLES for name, _ in env)


def file_name(executable: str) -> str:
    """Return the name of the cache file for the vLLM that this path runs in this environment."""
    parts = (str(SCHEMA), executable, *(os.environ.get(name, "") for name in SELECTING_VARIABLES))
    return f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class _CachedTable:
    """The content of one file of the cache.

    Attributes:
        data: the bytes of the file.
        table: the table; None if the flags could not be read.
        failure: why they could not be read; "" if they could.
        failed_at: when the reading failed, in seconds since the epoch; 0.0 if it did not fail.
        sources: the files from which the table was read, each with its modification time in ns and its size in bytes.
        places: the folders in which packages are installed, with the same numbers.
    """

    data: bytes
    table: FlagTable | None
    failure: str
    failed_at: float
    sources: tuple[tuple[str, int, int], ...]
    places: tuple[tuple[str, int, int], ...]


_parsed: dict[str, _CachedTable] = {}  # by executable


def load(executable: str, *, certain: bool = False) -> FlagTable | None:
    """Return the table of a vLLM; None if the cache has no valid table for it.

    Args:
        executable: the absolute path of vLLM.
        certain: whether the table must be certain (see the module).
    """
    cached = _load(executable, certain=certain)
    return cached.table if cached else None


def failure(executable: str) -> str:
    """Return why the flags of a vLLM could not be read; "" if they were read, if nobody tried, or if vLLM has changed since.

    Args:
        executable: the absolute path of vLLM.
    """
    cached = _load(executable, certain=True)
    return cached.failure if cached and abs(time.time() - cached.failed_at) < FAILURE_LIMIT else ""


def _load(executable: str, *, certain: bool) -> _CachedTable | None:
    """Return the valid content of the cache for a vLLM, parsed once; None if there is none."""
    data = cache.read(KIND, file_name(executable))
    if data is None:
        return None
    known = _parsed.get(executable)
    if known is None or known.data != data:
        try:
            known = _parse(data, json.loads(data))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        _parsed[executable] = known
    stamps = known.sources + (known.places if certain else ())
    return known if stamps[0][0] == executable and all(map(_is_unchanged, stamps)) else None


def _parse(data: bytes, fields: Any) -> _CachedTable:
    if fields["schema"] != SCHEMA:
        raise ValueError(fields["schema"])
    sources, places = map(_stamps, (fields["sources"], fields["places"]))
    if not sources:
        raise ValueError("a table without sources")
    if "failure" in fields:
        return _CachedTable(data, None, _line(fields["failure"]), float(fields["at"]), sources, places)
    options = tuple(map(_option, fields["options"]))
    if not options:
        raise ValueError("an empty table")
    table = FlagTable(_text(fields["version"]), options, tuple(map(_text, fields["architectures"])))
    return _CachedTable(data, table, "", 0.0, sources, places)


def _stamps(data: Any) -> tuple[tuple[str, int, int], ...]:
    return tuple((_text(path), int(modified), int(size)) for path, modified, size in data)


def _option(data: Any) -> FlagOption:
    strings, hidden = (tuple(map(_text, data[names])) for names in ("strings", "hidden"))
    if not strings or not all(map(_STRING.fullmatch, (*strings, *hidden))):
        raise ValueError(strings)
    return FlagOption(
        strings=strings,
        type=_text(data["type"]),
        choices=tuple(map(_text, data["choices"])),
        default=_text(data["default"]),
        help=_text(data["help"]),
        nargs=_text(data["nargs"]),
        group=_text(data["group"]),
        hidden=hidden,
        strict=data["strict"] is True,
        optional=data["optional"] is not False,
    )


def _text(value: Any) -> str:
    """Return a text of the table, without its unprintable characters.

    Raises:
        TypeError: the value is not a text.
    """
    if not isinstance(value, str):
        raise TypeError(value)
    if value.replace("\n", " ").isprintable():
        return value
    return "".join(character for character in value if character.isprintable() or character == "\n")


def _line(value: Any) -> str:
    """Return a reason as one line that is not empty."""
    return " ".join(_text(value).split()) or "no reason was given"


def _is_unchanged(stamp: tuple[str, int, int]) -> bool:
    path, modified, size = stamp
    try:
        status = os.stat(path)  # noqa: PTH116 - faster than Path: each completion does this for a hundred files
    except (OSError, ValueError):
        return False
    return (status.st_mtime_ns, status.st_size) == (modified, size)
