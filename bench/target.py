"""What both sides of a comparison share: the same vLLM, model, flags and environment."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.real_vllm.environment import FLAGS, environment

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Target:
    """A real vLLM, and a folder for what it leaves.

    Attributes:
        executable: the command `vllm`.
        model: folder of the tiny model.
        flags: for `vllm serve`, after the model.
        env: what both sides add to this process's environment.
        folder: for logs and temporary files; the caller removes it.
        api_key: what both sides ask for under `/v1`.
    """

    executable: str
    model: str
    flags: tuple[str, ...]
    env: dict[str, str]
    folder: Path
    api_key: str = "bench"


def prepare(folder: Path) -> Target:
    """Return the target, with vLLM built first where it is missing; vllm_magic's state goes into `folder` too.

    Raises:
        InstallError: vLLM could not be built.
    """
    real = environment()
    os.environ["VLLM_MAGIC_HOME"] = str(folder / "home")
    env = {
        **real.env,
        "VLLM_API_KEY": Target.api_key,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # else a start may find what another one left
    }
    return Target(str(real.executable), str(real.model), FLAGS, env, folder)


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nobody listens now."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return so many of them, no two the same."""
    with ExitStack() as probes:
        opened = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in opened:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in opened]
