"""The specification of a server: a model, and how to serve it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import arguments, durations
from vllm_magic.engine.flags import abbreviations, config_file, flags
from vllm_magic.errors import ExecutableNotFound, InvalidOption
from vllm_magic.linux import home
from vllm_magic.masking import Secret, mask_words, remember

if TYPE_CHECKING:
    from vllm_magic.engine.flags.flag_table import FlagTable

LONGEST_NAME = 255  # bytes of a file name (NAME_MAX, limits.h)
QUOTED = 64  # characters of a word that is too long, as an error quotes it
KEY = "VLLM_API_KEY"  # the environment variable from which vLLM reads the key


def working_directory() -> str:
    """Return the working directory of this process.

    Raises:
        InvalidOption: it is gone.
    """
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise InvalidOption("The working directory is gone. Go to one that exists: %cd ~") from None


def _folder(model: str) -> Path:
    """Return the absolute path of a model's folder; "~" is the home folder."""
    try:
        return Path(home.expanded(model)).absolute()
    except OSError as error:
        raise InvalidOption(f"{error}.") from None


@dataclass(frozen=True)
class ServerSpec:
    """A model and how to serve it. Equal specs mean the same server.

    Attributes:
        model: a Hugging Face name, or a folder.
        args: the flags for ``vllm serve``. A key among them is moved to ``env``, which is never shown, and abbreviated flags
            that this package reads are written in full (`abbreviations`).
        name: the name of the server in this kernel.
        gpus: "0,1" (indices or UUIDs), or "auto"; None to let vLLM choose.
        port: the TCP port; None for a free port.
        executable: the path of ``vllm``; None to search for it.
        force: whether to start even if the GPUs have too little free memory, or a check says that the start cannot succeed.
        ttl: seconds without a request after which the server is released; None for never.
        env: (name, value) pairs that are added to the kernel's environment.
        keep: seconds for which the server waits for another kernel after the end of its kernel; None to end it at once.
        cluster: the address of the Ray cluster on which the server runs, or "auto"; None for this machine.
        cwd: the working directory of the server.
        in_file: the flags from the file of a ``--config`` among ``args``; None to read them now.
    """

    model: str
    args: tuple[str, ...] = ()
    name: str = ""
    gpus: str | None = None
    port: int | None = None
    executable: str | None = None
    ttl: float | None = None
    force: bool = field(default=False, compare=False)
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    keep: float | None = None
    cluster: str | None = None
    cwd: str = field(default_factory=working_directory, compare=False)
    in_file: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the values, and compute the fields that depend on other fields."""
        if not self.model.strip() or self.model.startswith("-"):
            raise InvalidOption("Which model? Write it first, then the flags: %vllm start MODEL [flags].")
        self._check_characters()
        is_path = self.model.startswith((".", "~", "/"))
        parts = self.model.split("/") if is_path else [f"models--{self.model}"]  # a folder of the Hub's cache
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
            raise InvalidOption(
                f"The model {self.model[:QUOTED]!r}... is longer than a file name may be: {LONGEST_NAME} bytes."
            )
        if is_path:
            object.__setattr__(self, "model", str(_folder(self.model)))
        object.__setattr__(
            self, "args", abbreviations.written_out(config_file.in_two_words(self.args), self._flag_table)
        )
        self._hide_key()
        self._hide_token()
        object.__setattr__(self, "env", tuple((name, Secret(value)) for name, value in self.env))
        self._check_key()
        if self.in_file is None:
            in_file = config_file.read_flags(self.args, self.cwd, self._flag_table)
            object.__setattr__(self, "in_file", in_file)
        if not self.name:
            object.__setattr__(self, "name", default_name(self.model))
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", self.name):
            raise InvalidOption(
                f"{self.name[:QUOTED]!r} cannot be a name. Use letters, digits, '.', '_' and '-', 64 at most."
            )
        if self.port is not None and not 0 < self.port < 65536:  # noqa: PLR2004 - TCP
            raise InvalidOption(
                f"{self.port} is not a port. Use 1 to 65535, or leave --port out for a free one."
            )
        self._check_times()

    def _check_characters(self) -> None:
        own = (self.name, self.gpus, self.executable, self.cluster)
        words = (self.model, *self.args, *map("".join, self.env), *(word for word in own if word))
        arguments.check_characters(words)

    def _check_times(self) -> None:
        for option, value in (("--ttl", self.ttl), ("--keep", self.keep)):
            if value is not None and not 0 < value <= durations.MOST:
                raise InvalidOption(
                    f"{option} {value:g} is not possible. Write a time, such as {option} 30m, or leave it out."
                )
        if self.ttl is not None and flags.has(self.all_args, "--disable-log-stats"):
            raise InvalidOption(
                "--ttl needs vLLM's own counters, and --disable-log-stats disables them. Leave one of them out."
            )

    def __repr__(self) -> str:
        return f"<ServerSpec {self.name}: {' '.join(mask_words((self.model, *self.args)))}>"

    @property
    def all_args(self) -> tuple[str, ...]:
        """The flags in the order in which vLLM reads them. If a flag occurs several times, the last one counts."""
        return (*(self.in_file or ()), *self.args)

    def _flag_table(self) -> FlagTable | None:
        """Return all flags of the vLLM that serves the model; None if they are not known."""
        from vllm_magic.engine import executable
        from vllm_magic.engine.flags import flag_table  # few starts need them

        # The vLLM of this machine does not show which flags the vLLM of a cluster has.
        if self.cluster or flag_table.may_select_another(self.env):
            return None
        try:
            return flag_table.load(executable.find(self.executable))
        except ExecutableNotFound:  # the start reports it
            return None

    def _hide_key(self) -> None:
        """Move the key of ``--api-key`` to the environment, where `ps` does not show it."""
        flag = "--api-key"
        for position, word in enumerate(self.args):
            # vLLM accepts several keys after one flag. The other keys would stay in the visible arguments.
            others = self.args[position + (1 if "=" in word else 2) :]
            if flags.has((word,), flag) and others and not others[0].startswith("-"):
                raise InvalidOption(f"{flag} takes one key here: {flag} KEY.")
        self._hide(flag, KEY)

    def _check_key(self) -> None:
        """Check that an HTTP header can carry the key. If it could not, an HTTP library would show the key in an error message."""
        key = dict(self.env).get(KEY, "")
        if not all("!" <= character <= "~" for character in key):
            raise InvalidOption(
                f"The key (--api-key, or {KEY}) must be visible ASCII characters, without spaces. Choose another one."
            )
        remember(key)

    def _hide_token(self) -> None:
        """Move the token of ``--hf-token`` to the environment."""
        flag = "--hf-token"
        for word, value in zip(self.args, (*self.args, "-")[1:], strict=True):
            # Without a value, the flag means the token of the user who is logged in.
            if flags.has((word,), flag) and ("=" in word or not value.startswith("-")):
                self._hide(flag, "HF_TOKEN")
                return

    def _hide(self, flag: str, variable: str) -> None:
        """Move the value of the flag to the environment variable, if the flag is given."""
        value, args = flags.pop(self.args, flag)
        if value is not None:
            object.__setattr__(self, "args", args)
            object.__setattr__(self, "env", tuple(sorted({**dict(self.env), variable: value}.items())))


def default_name(model: str) -> str:
    """Return the last part of the model's name in lower case: "qwen3-0.6b" for "Qwen/Qwen3-0.6B"."""
    last = re.sub(r"[^a-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2].lower()).strip("-._")
    return last[:64] or "model"
