"""What a person asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vllm_magic.errors import InvalidOption


@dataclass(frozen=True)
class ServerSpec:
    """A model and how to serve it. Equal specs mean the same server.

    Attributes:
        model: a Hugging Face name, or a folder.
        args: flags for ``vllm serve``, as they stand.
        name: what the server is called in this kernel.
        gpus: "0,1" (indices or UUIDs), "auto", or None: vLLM chooses.
        port: the TCP port, or None for a free one.
        executable: path of ``vllm``, or None for the one that is found.
        env: (name, value) pairs on top of the kernel's environment.
        cwd: working directory of the server.
    """

    model: str
    args: tuple[str, ...] = ()
    name: str = ""
    gpus: str | None = None
    port: int | None = None
    executable: str | None = None
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cwd: str = field(default_factory=lambda: str(Path.cwd()), compare=False)

    def __post_init__(self) -> None:
        """Check the words, and fill in what follows from them."""
        if not self.model or self.model.startswith("-"):
            raise InvalidOption("Which model? Write it first, then the flags: %vllm start MODEL [flags].")
        if self.model.startswith((".", "~", "/")):
            object.__setattr__(self, "model", str(Path(self.model).expanduser().absolute()))
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


def default_name(model: str) -> str:
    """The last part of the model's name, in small letters: "Qwen/Qwen3-0.6B" gives "qwen3-0.6b"."""
    last = re.sub(r"[^a-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2].lower()).strip("-._")
    return last[:64] or "model"
