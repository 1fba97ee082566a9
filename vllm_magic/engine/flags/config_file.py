"""The flags in the file of ``--config``. vLLM puts them before the flags of the command line, which win.

The rules are those of vLLM 0.32 (utils/argparse_utils.py, ``load_config_file``): a key is a long option without its dashes,
``false`` means ``--no-``, and a nested mapping is passed as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.flags import abbreviations, flags
from vllm_magic.errors import InvalidOption
from vllm_magic.linux import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_magic.engine.flags.flag_table import FlagTable

FLAG = "--config"
LONGEST = 2**15  # bytes; the parser, in Python, takes a second for that many
LONGEST_COMPLAINT = 200  # characters of the parser's error that a message quotes


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
    found = _read(Path(cwd, name), name)
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
    if FLAG not in args[:-1]:
        return None
    name = args[args.index(FLAG) + 1]
    return flags.value(_read(Path(cwd, name), name), "--model")


def _read(path: Path, name: str) -> tuple[str, ...]:
    from vllm_magic.engine.flags import bounded_yaml

    try:
        text = files.read_regular(path, LONGEST)
    except OSError as error:
        raise InvalidOption(f"{FLAG} {name} cannot be read: {error.strerror}. Check the path.") from None
    try:
        content = bounded_yaml.load(text)
        if isinstance(content, dict):
            return tuple(
                word for key, value in content.items() for word in _option(str(key).replace("_", "-"), value)
            )
    except Exception as error:  # noqa: BLE001 - PyYAML raises errors of any type for a value that does not fit its tag
        said = str(error).partition("\n")[0][:LONGEST_COMPLAINT].rstrip(".") or type(error).__name__
        raise InvalidOption(f"{FLAG} {name} is no YAML that can be used: {said}. Correct the file.") from None
    raise InvalidOption(f"{FLAG} {name} holds no options. Write them as `max-model-len: 4096`, a line each.")


def _option(key: str, value: Any) -> Iterator[str]:
    if value is False:
        yield f"--no-{key}"
        return
    if value == []:
        return
    yield f"--{key}"
    if value is True:
        return
    if isinstance(value, list):
        yield from map(str, value)
    else:
        yield json.dumps(value, default=str) if isinstance(value, dict) else str(value)
