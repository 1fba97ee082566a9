"""The flags of one vLLM: what `reader_child` wrote into the cache, checked and typed.

A table holds as long as the files that it was read from are as they were: the executable, vLLM's metadata, and the
modules that define the flags. So an update, or a change in a checkout, ends it. It is certain as long as nothing was
installed beside vLLM: a plugin can add flags.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vllm_magic.engine import cache

SCHEMA = 2  # of what `reader_child` writes
KIND = "flags"  # the folder in the cache
OF_PYTHON = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "VLLM_PLUGINS",
)  # decide which vLLM an executable runs
# vLLM names none of them a path.
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
class Option:
    """One option of a command line.

    Attributes:
        strings: the ways to write it.
        type: the name of the function that reads its value.
        choices: the values it takes; where others are taken too, the usual ones.
        default: as text; "" for none.
        help: the first sentence of it.
        takes_value: whether a value follows.
        group: the part of vLLM it belongs to.
    """

    strings: tuple[str, ...]
    type: str = "str"
    choices: tuple[str, ...] = ()
    default: str = ""
    help: str = ""
    takes_value: bool = True
    group: str = ""

    @property
    def kind(self) -> str:
        """What its value is, in a word."""
        return _KINDS.get(self.type, self.type if self.type.isidentifier() else "text")  # of a lambda

    @property
    def is_path(self) -> bool:
        """Whether its value names a file or a folder."""
        return any(_PATH.fullmatch(one) for one in self.strings)


@dataclass(frozen=True)
class FlagTable:
    """All flags of one vLLM.

    Attributes:
        version: vLLM's, "" where it is not known.
        options: in vLLM's own order.
    """

    version: str
    options: tuple[Option, ...]

    @cached_property
    def by_string(self) -> dict[str, Option]:
        """Each option by each way to write it."""
        return {string: option for option in self.options for string in option.strings}

    def find(self, flag: str) -> Option | None:
        """The option that is written so; vLLM takes underscores for dashes."""
        return self.by_string.get(plain(flag))


def plain(flag: str) -> str:
    """A long flag with dashes for underscores, as vLLM reads it (its utils/argparse_utils.py)."""
    return flag.replace("_", "-") if flag.startswith("--") else flag


def file_name(executable: str) -> str:
    """The cache file for what this path runs, in this environment."""
    words = (str(SCHEMA), executable, *(os.environ.get(name, "") for name in OF_PYTHON))
    return f"{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class _Read:
    """One file of the cache; a stamp is a path with its time of change in ns and its size."""

    data: bytes
    table: FlagTable
    sources: tuple[tuple[str, int, int], ...]
    places: tuple[tuple[str, int, int], ...]


_read: dict[str, _Read] = {}


def load(executable: str, *, certain: bool = False) -> FlagTable | None:
    """The table of the vLLM at this absolute path; None where there is none in the cache that holds for it.

    Args:
        executable: the absolute path of vLLM.
        certain: only one that holds for certain.
    """
    data = cache.read(KIND, file_name(executable))
    if data is None:
        return None
    known = _read.get(executable)
    if known is None or known.data != data:
        try:
            known = _parse(data, json.loads(data))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        _read[executable] = known
    stamps = known.sources + (known.places if certain else ())
    return known.table if stamps[0][0] == executable and all(map(_is_unchanged, stamps)) else None


def _parse(data: bytes, fields: Any) -> _Read:
    if fields["schema"] != SCHEMA:
        raise ValueError(fields["schema"])
    sources, places = map(_stamps, (fields["sources"], fields["places"]))
    options = tuple(map(_option, fields["options"]))
    if not sources or not options:
        raise ValueError("an empty table")
    return _Read(data, FlagTable(_text(fields["version"]), options), sources, places)


def _stamps(data: Any) -> tuple[tuple[str, int, int], ...]:
    return tuple((_text(path), int(modified), int(size)) for path, modified, size in data)


def _option(data: Any) -> Option:
    strings = tuple(map(_text, data["strings"]))
    if not strings or not all(map(_STRING.fullmatch, strings)):
        raise ValueError(strings)
    return Option(
        strings=strings,
        type=_text(data["type"]),
        choices=tuple(map(_text, data["choices"])),
        default=_text(data["default"]),
        help=_text(data["help"]),
        takes_value=data["takes_value"] is True,
        group=_text(data["group"]),
    )


def _text(value: Any) -> str:
    """A text of the table, of which only what can be shown is kept."""
    if not isinstance(value, str):
        raise TypeError(value)
    if value.replace("\n", " ").isprintable():
        return value
    return "".join(character for character in value if character.isprintable() or character == "\n")


def _is_unchanged(stamp: tuple[str, int, int]) -> bool:
    path, modified, size = stamp
    try:
        status = os.stat(path)  # noqa: PTH116 - a hundred of them for each completion
    except (OSError, ValueError):
        return False
    return (status.st_mtime_ns, status.st_size) == (modified, size)
