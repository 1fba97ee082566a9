"""The flags in the file of ``--config``. vLLM puts them before the flags of the command line, which win.

The rules are those of vLLM 0.15 to 0.33 (utils/argparse_utils.py, ``load_config_file``): a key is a long option without its
dashes, ``false`` means ``--no-``, and a nested mapping is passed as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import similar_paths
from vllm_magic.engine.flags import abbreviations, flags
from vllm_magic.errors import InvalidOption
from vllm_magic.linux import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_magic.engine.flags.flag_table import FlagTable

FLAG = "--config"
LONGEST = 2**15  # bytes; the parser, in Python, takes a second for that many
LONGEST_COMPLAINT = 200  # characters of the parser's error that a message quotes


def in_two_words(args: Sequence[str]) -> tuple[str, ...]:
    """Return the command line with ``--config FILE`` in place of ``--config=FILE``, which vLLM accepts without reading the file."""
    return tuple(
        word
        for written in args
        for word in (written.split("=", 1) if written.startswith(f"{FLAG}=") else (written,))
    )


def read_flags(args: Sequence[str], cwd: str, load: Callable[[], FlagTable | None]) -> tuple[str, ...]:
    """Return the flags that the file adds to the command line; () without a file.

    Args:
        args: the flags of the command line.
        cwd: the server's working directory.
        load: as for `abbreviations.written_out`.

    Raises:
        InvalidOption: the file cannot be read, is not a mapping, holds a secret key, or has an ambiguous abbreviation.
    """
    if FLAG not in args[:-1]:
        return ()
    name = args[args.index(FLAG) + 1]
    found = _read(name, cwd)
    try:
        flat = abbreviations.written_out(found, load)
    except InvalidOption as error:
        raise InvalidOption(f"{FLAG} {name}: {error}") from None
    for flag in abbreviations.SECRET:
        if flags.has(flat, flag):
            raise InvalidOption(
                f"{flag[2:]} in {name}: a key in a file is no secret, and vLLM would put it where others see it. "
                f"Take it out; {flag} KEY here keeps it in the server's environment."
            )
    return flat


def read_model(args: Sequence[str], cwd: str) -> str | None:
    """Return the model that the file names; None if it names none, or without a file. Arguments and errors as `read_flags`."""
    args = in_two_words(args)
    if FLAG not in args[:-1]:
        return None
    return flags.value(_read(args[args.index(FLAG) + 1], cwd), "--model")


def _read(name: str, cwd: str) -> tuple[str, ...]:
    from vllm_magic.engine.flags import bounded_yaml

    try:
        text = files.read_regular(Path(cwd, name), LONGEST)
    except FileNotFoundError:
        meant = similar_paths.suggestion(name, cwd) or " Correct the path."
        raise InvalidOption(f"{FLAG} {name} is not there.{meant}") from None
    except OSError as error:
        raise InvalidOption(f"{FLAG} {name} cannot be read: {error.strerror}. Check the path.") from None
    try:
        content = bounded_yaml.load(text)
        if isinstance(content, dict):
            return tuple(word for key, value in content.items() for word in _option(key, value))
    except Exception as error:  # noqa: BLE001 - PyYAML raises errors of any type for a value that does not fit its tag
        said = str(error).partition("\n")[0][:LONGEST_COMPLAINT].rstrip(".") or type(error).__name__
        raise InvalidOption(f"{FLAG} {name} is no YAML that can be used: {said}. Correct the file.") from None
    raise InvalidOption(f"{FLAG} {name} holds no options. Write them as `max-model-len: 4096`, a line each.")


def _option(key: Any, value: Any) -> Iterator[str]:
    if not isinstance(key, str):  # YAML reads `on`, `yes` and `no` as true or false
        raise ValueError(f"the key {key!r} is no name of a flag. Put it in quotes")  # noqa: TRY004 - of the file
    name = key.replace("_", "-")
    if value is False:
        yield f"--no-{name}"
        return
    if value == []:
        return
    yield f"--{name}"
    if value is True:
        return
    if isinstance(value, list):
        yield from map(str, value)
    elif isinstance(value, dict):
        yield _as_json(key, value)
    else:
        yield str(value)


def _as_json(key: str, value: dict[Any, Any]) -> str:
    try:
        return json.dumps(value)
    except TypeError:  # as vLLM's own json.dumps
        raise ValueError(f"{key} has a date, or a name that is no text. Put it in quotes") from None
