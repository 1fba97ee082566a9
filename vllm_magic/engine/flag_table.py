"""The flags of one vLLM: what `flag_reader` wrote into the cache, checked and typed.

A table holds as long as the files that it was read from are as they were: the executable, vLLM's metadata, and the
modules that define the flags. So an update, or a change in a checkout, ends it.
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

SCHEMA = 1  # of what `flag_reader` writes
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
_END_OF_SENTENCE = re.compile(r"\.\s+(?=[A-Z`])|:\s*\n|\n\n| \(default:")
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
        help: as vLLM has it, of several paragraphs.
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
        return _KINDS.get(self.type, self.type)

    @property
    def summary(self) -> str:
        """The first sentence of its help."""
        return " ".join(_END_OF_SENTENCE.split(self.help.strip(), maxsplit=1)[0].split()).rstrip(".:")

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


_parsed: dict[str, tuple[bytes, FlagTable, list[tuple[str, int, int]]]] = {}


def load(executable: str) -> FlagTable | None:
    """The table of the vLLM at this absolute path; None where there is none in the cache that holds for it."""
    data = cache.read(KIND, file_name(executable))
    if data is None:
        return None
    known = _parsed.get(executable)
    if known is None or known[0] != data:
        try:
            known = (data, *_parse(json.loads(data)))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        _parsed[executable] = known
    _, table, sources = known
    return table if sources[0][0] == executable and all(map(_is_unchanged, sources)) else None


def _parse(data: Any) -> tuple[FlagTable, list[tuple[str, int, int]]]:
    if data["schema"] != SCHEMA:
        raise ValueError(data["schema"])
    sources = [(_text(path), int(modified), int(size)) for path, modified, size in data["sources"]]
    options = tuple(map(_option, data["options"]))
    if not sources or not options:
        raise ValueError("an empty table")
    return FlagTable(_text(data["version"]), options), sources


def _option(data: Any) -> Option:
    strings = tuple(map(_text, data["strings"]))
    if not strings or not all(re.fullmatch(r"--?[A-Za-z][\w-]*", string) for string in strings):
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


def _is_unchanged(source: tuple[str, int, int]) -> bool:
    path, modified, size = source
    try:
        status = os.stat(path)  # noqa: PTH116 - a hundred of them for each completion
    except (OSError, ValueError):
        return False
    return (status.st_mtime_ns, status.st_size) == (modified, size)
