"""The settings of ``%config VllmMagics``, and the profiles in ``~/.config/vllm-magic/profiles.toml``.

::

    [big]
    model = "Qwen/Qwen3-32B"
    flags = "--max-model-len 32768 --enable-lora"      # or a list
    gpus = "0,1"
    ttl = "30m"
    env = { HF_HUB_OFFLINE = "1" }

Settings and profiles stand for arguments of ``%vllm start``. The arguments of the settings come first, then those of the
profile, then those of the line in the notebook; of two values for one option, the later one is used.
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

LARGEST_FILE = 2**15  # the largest size of the file with the profiles, in bytes
# Options with a value.
_VALUED = ("name", "gpus", "port", "executable", "vllm", "keep", "cluster", "ttl", "timeout")
_KEYS = ("model", "flags", "env", "force", *_VALUED)


@dataclass(frozen=True)
class Settings:
    """The default arguments of each start; "" for none. ``flags`` has the form of a line after ``%vllm start MODEL``."""

    executable: str = ""
    flags: str = ""
    gpus: str = ""
    host: str = ""

    def args(self) -> list[str]:
        """Return the settings as arguments of ``%vllm start``.

        Raises:
            InvalidOption: a quotation in the flags is not closed.
        """
        named = (("--executable", self.executable), ("--gpus", self.gpus), ("--host", self.host))
        return [arg for flag, value in named if value for arg in (flag, value)] + split(self.flags)


NO_SETTINGS = Settings()


@dataclass(frozen=True)
class Profile:
    """A profile: the model, "" for none, and the arguments after it."""

    model: str
    args: tuple[str, ...]


def profile(name: str) -> Profile:
    """Read the profile of this name.

    Raises:
        InvalidOption: there is no such profile, or it cannot be read.
    """
    path = profiles_path()
    known = _load(path)
    table = known.get(name)
    if not isinstance(table, dict):
        names = [other for other, content in known.items() if isinstance(content, dict)]
        listed = f"It has the profiles {', '.join(names)}." if names else "It has no profile."
        raise InvalidOption(f"There is no profile {name} in {path}. {listed}")
    model = table.get("model", "")
    if not isinstance(model, str):
        raise InvalidOption(f"model in profile {name} of {path} is not a string. Put it in quotes.")
    return Profile(
        model, tuple(arg for key, value in table.items() for arg in _args(key, value, f"profile {name}"))
    )


def profiles_path() -> Path:
    """Return the path of the file with the profiles, which need not exist.

    Raises:
        InvalidOption: the path is below the home folder, and this user has no home folder.
    """
    try:
        folder = home.expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    except OSError as error:
        raise InvalidOption(f"There are no profiles: {error}.") from None
    return Path(folder, "vllm-magic", "profiles.toml")


def _load(path: Path) -> dict[str, Any]:
    """Return the content of the file with the profiles."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(files.read_regular(path, LARGEST_FILE).decode())
    except FileNotFoundError:
        raise InvalidOption(
            f"There are no profiles: {path} does not exist. %vllm help shows what to write there."
        ) from None
    except OSError as error:
        raise InvalidOption(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{path} is not valid TOML: {error}. Correct it.") from None
    return content


def _args(key: str, value: Any, where: str) -> Iterator[str]:
    """Yield the arguments for an entry of a profile; ``where`` names the profile, for errors."""
    if key == "model":
        return
    if key == "flags":
        if not isinstance(value, (str, list)):
            raise InvalidOption(f"flags in {where} must be a string or a list.")
        yield from split(value) if isinstance(value, str) else map(str, value)
    elif key == "env":
        if not isinstance(value, dict):
            raise InvalidOption(f'env in {where} must be a table: env = {{ NAME = "VALUE" }}.')
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
        raise InvalidOption(f"{where} has an unknown key {key!r}.{meant} Options of vLLM go into flags.")
