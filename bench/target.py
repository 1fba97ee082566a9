"""What both sides of a comparison share: the same vLLM, model, flags and environment."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.real.environment import FLAGS, GPU_FLAGS, environment, installed

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
        on_gpu: whether it is a build for GPUs.
        api_key: what both sides ask for under `/v1`.
    """

    executable: str
    model: str
    flags: tuple[str, ...]
    env: dict[str, str]
    folder: Path
    on_gpu: bool = False
    api_key: str = "bench"


def prepare(folder: Path, executable: str | None = None) -> Target:
    """Return the target; vllm_magic's state goes into `folder` too.

    Args:
        folder: for all that is written.
        executable: a `vllm` for GPUs that is installed; None for the CPU build, which is built where it is missing.

    Raises:
        InstallError: vLLM could not be built.
    """
    real = installed(executable, folder) if executable else environment()
    os.environ["VLLM_MAGIC_HOME"] = str(folder / "home")
    env = {
        **real.env,
        "VLLM_API_KEY": Target.api_key,
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),  # else a start may find what another one left
    }
    flags = GPU_FLAGS if executable else FLAGS
    return Target(str(real.executable), str(real.model), flags, env, folder, on_gpu=bool(executable))


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
