"""What a person sets once: ``%config VllmMagics``, and profiles in ``~/.config/vllm-magic/profiles.toml``.

::

    [big]
    model = "Qwen/Qwen3-32B"
    flags = "--max-model-len 32768 --enable-lora"      # or a list of words
    gpus = "0,1"
    ttl = "30m"
    env = { HF_HUB_OFFLINE = "1" }

A profile stands for the words that would be written behind ``%vllm start``, and so do the settings before it: what
comes later wins, the line in the notebook last.
"""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.expansion import split
from vllm_magic.linux import files, home

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 2**15  # bytes of the file with the profiles
_VALUED = ("name", "gpus", "port", "executable", "keep", "cluster", "ttl", "timeout")
_KEYS = ("model", "flags", "env", "force", *_VALUED)


@dataclass(frozen=True)
class Settings:
    """The defaults of each start, "" where there is none: ``flags`` are words, as behind ``%vllm start MODEL``."""

    executable: str = ""
    flags: str = ""
    gpus: str = ""
    host: str = ""

    def words(self) -> list[str]:
        """The same as words.

        Raises:
            InvalidOption: a quotation in the flags is not closed.
        """
        named = (("--executable", self.executable), ("--gpus", self.gpus), ("--host", self.host))
        return [word for flag, value in named if value for word in (flag, value)] + split(self.flags)


NO_SETTINGS = Settings()


@dataclass(frozen=True)
class Profile:
    """``model`` is "" where the profile names none; ``words`` are those behind it."""

    model: str
    words: tuple[str, ...]


def profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        InvalidOption: there is none, or it cannot be read.
    """
    path = profiles_path()
    known = _load(path)
    found = known.get(name)
    if not isinstance(found, dict):
        names = [one for one, content in known.items() if isinstance(content, dict)]
        listed = f"It has {', '.join(names)}." if names else "It has none."
        raise InvalidOption(f"There is no profile {name} in {path}. {listed}")
    model = found.get("model", "")
    if not isinstance(model, str):
        raise InvalidOption(f"model in profile {name} of {path} is no text. Put it in quotes.")
    return Profile(
        model, tuple(word for key, value in found.items() for word in _words(key, value, f"profile {name}"))
    )


def profiles_path() -> Path:
    """The file with the profiles, whether it is there or not.

    Raises:
        InvalidOption: it is below the home folder of a user who has none.
    """
    try:
        folder = home.expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    except OSError as error:
        raise InvalidOption(f"There are no profiles: {error}.") from None
    return Path(folder, "vllm-magic", "profiles.toml")


def _load(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(files.read_regular(path, LONGEST).decode())
    except FileNotFoundError:
        raise InvalidOption(
            f"There are no profiles: {path} is not there. %vllm help tells what goes into it."
        ) from None
    except OSError as error:
        raise InvalidOption(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{path} is no TOML: {error}. Correct it.") from None
    return content


def _words(key: str, value: Any, where: str) -> Iterator[str]:
    if key == "model":
        return
    if key == "flags":
        if not isinstance(value, (str, list)):
            raise InvalidOption(f"flags in {where} are one text, or a list of words.")
        yield from split(value) if isinstance(value, str) else map(str, value)
    elif key == "env":
        if not isinstance(value, dict):
            raise InvalidOption(f'env in {where} is a table: env = {{ NAME = "VALUE" }}.')
        for name, text in value.items():
            yield from ("--env", f"{name}={text}")
    elif key == "force":
        if value is True:
            yield "--force"
    elif key in _VALUED:
        yield from (f"--{key}", str(value))
    else:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InvalidOption(
            f"{where} has {key!r}, which means nothing here.{meant} vLLM's options go into flags."
        )
