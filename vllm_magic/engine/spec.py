"""What a person asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vllm_magic import durations
from vllm_magic.engine import config_file, flags
from vllm_magic.errors import InvalidOption
from vllm_magic.masking import mask_words


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise InvalidOption("The working directory is gone. Go to one that exists: %cd ~") from None


def _folder(model: str) -> Path:
    try:
        return Path(model).expanduser().absolute()
    except (RuntimeError, UnicodeError):  # no such user
        raise InvalidOption(f"There is no home folder for {model}. Write the whole path.") from None


@dataclass(frozen=True)
class ServerSpec:
    """A model and how to serve it. Equal specs mean the same server.

    Attributes:
        model: a Hugging Face name, or a folder.
        args: flags for ``vllm serve``, as they stand; but a key among them moves to ``env``, which nothing shows.
        name: what the server is called in this kernel.
        gpus: "0,1" (indices or UUIDs), "auto", or None: vLLM chooses.
        port: the TCP port, or None for a free one.
        executable: path of ``vllm``, or None for the one that is found.
        force: start also where the GPUs have too little free memory, or vLLM has no such flag.
        ttl: seconds without a request after which the server is released, or None: never.
        env: (name, value) pairs on top of the kernel's environment.
        keep: seconds for which it outlives its kernel, for another one to attach; None ends it with the kernel.
        cluster: the address of a Ray cluster on which it runs, or "auto"; None for this machine.
        cwd: working directory of the server.
        in_file: what the file of a ``--config`` among ``args`` adds to them; None has it read now.
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
    cwd: str = field(default_factory=_working_directory, compare=False)
    in_file: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the words, and fill in what follows from them."""
        if not self.model or self.model.startswith("-"):
            raise InvalidOption("Which model? Write it first, then the flags: %vllm start MODEL [flags].")
        if "\0" in "".join((self.model, *self.args, *map("".join, self.env))):
            raise InvalidOption("No word may hold a NUL character. Leave it out.")
        if self.model.startswith((".", "~", "/")):
            object.__setattr__(self, "model", str(_folder(self.model)))
        self._hide_key()
        self._hide_token()
        if self.in_file is None:
            object.__setattr__(self, "in_file", config_file.words(self.args, self.cwd))
        if not self.name:
            object.__setattr__(self, "name", default_name(self.model))
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", self.name):
            raise InvalidOption(
                f"{self.name!r} cannot be a name. Use letters, digits, '.', '_' and '-', 64 at most."
            )
        if self.port is not None and not 0 < self.port < 65536:  # noqa: PLR2004 - TCP
            raise InvalidOption(
                f"{self.port} is not a port. Use 1 to 65535, or leave --port out for a free one."
            )
        self._check_times()

    def _check_times(self) -> None:
        for option, value in (("--ttl", self.ttl), ("--keep", self.keep)):
            if value is not None and not 0 < value <= durations.MOST:
                raise InvalidOption(f"{option} {value:g}: how long? {option} 30m, or leave it out.")
        if self.ttl is not None and flags.has(self.all_args, "--disable-log-stats"):
            raise InvalidOption(
                "--ttl goes by vLLM's own counters, and --disable-log-stats takes them away. Leave one of them out."
            )

    def __repr__(self) -> str:
        return f"<ServerSpec {self.name}: {' '.join(mask_words((self.model, *self.args)))}>"

    @property
    def all_args(self) -> tuple[str, ...]:
        """The flags in the order in which vLLM reads them: of several with one name the last one counts."""
        return (*(self.in_file or ()), *self.args)

    def _hide_key(self) -> None:
        key, args = flags.take(self.args, "--api-key")
        if key is None:
            return
        # vLLM takes several behind one flag: the others would stay among the arguments, for all to see.
        if any(
            flags.has((flag,), "--api-key") and "=" not in flag and not second.startswith("-")
            for flag, second in zip(self.args, self.args[2:], strict=False)
        ):
            raise InvalidOption("--api-key takes one key here: --api-key KEY.")
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "env", tuple(sorted({**dict(self.env), "VLLM_API_KEY": key}.items())))

    def _hide_token(self) -> None:
        token = flags.value(self.args, "--hf-token")
        if not token or token.startswith("-"):  # without a value it means the one that is logged in
            return
        _, args = flags.take(self.args, "--hf-token")
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "env", tuple(sorted({**dict(self.env), "HF_TOKEN": token}.items())))


def default_name(model: str) -> str:
    """The last part of the model's name, in small letters: "Qwen/Qwen3-0.6B" gives "qwen3-0.6b"."""
    last = re.sub(r"[^a-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2].lower()).strip("-._")
    return last[:64] or "model"
