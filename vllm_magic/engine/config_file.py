"""The flags in a file that ``--config`` names: vLLM puts them before those of the command line, which win.

As vLLM 0.32 does it (utils/argparse_utils.py, ``load_config_file``): long options without their dashes, ``false`` as ``--no-``,
a nested mapping as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import abbreviations, flags
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_magic.engine.flag_table import FlagTable

FLAG = "--config"
LONGEST = 2**20  # bytes


def words(args: Sequence[str], cwd: str, load: Callable[[], FlagTable | None]) -> tuple[str, ...]:
    """What the file adds to the command line; () where none is named.

    Args:
        args: the flags.
        cwd: the server's working directory.
        load: as for `abbreviations.written_out`.

    Raises:
        InvalidOption: the file cannot be read, is no mapping, or holds a key or a flag that may be several.
    """
    if FLAG not in args[:-1]:
        return ()
    name = args[args.index(FLAG) + 1]
    content = _load(Path(cwd, name), name)
    found = [word for key, value in content.items() for word in _option(str(key).replace("_", "-"), value)]
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


def _load(path: Path, name: str) -> dict[Any, Any]:
    import yaml

    try:
        with path.open("rb") as file:
            content = yaml.safe_load(file.read(LONGEST))
    except OSError as error:
        raise InvalidOption(f"{FLAG} {name} cannot be read: {error.strerror}. Check the path.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = str(error).partition("\n")[0]
        raise InvalidOption(f"{FLAG} {name} is no YAML: {said}. Correct the file.") from None
    if not isinstance(content, dict):
        raise InvalidOption(
            f"{FLAG} {name} holds no options. Write them as `max-model-len: 4096`, a line each."
        )
    return content


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
