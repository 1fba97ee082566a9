"""The real vLLM of the tests: where it is, and what it needs in its environment."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from vllm_magic.engine.executable import interpreter

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

# As on a GPU, where vLLM forks its engine while CUDA is not initialised; the CPU build would spawn it, and each of its
# processes would import vLLM again: twice the time of a start.
FORKED = {"PYTHONPATH": str(HERE / "fork_plugin"), "VLLM_WORKER_MULTIPROC_METHOD": "fork"}

# The same on a GPU, for a build of vLLM that is there already.
GPU_FLAGS = ("--max-model-len", "256", "--enforce-eager", "--gpu-memory-utilization", "0.9")
GPU_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True)
class RealVllm:
    """A vLLM and a tiny model for it.

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


def installed(executable: str, folder: Path) -> RealVllm:
    """Return a vLLM that is installed, with the tiny model, which its own Python makes in `folder`.

    Raises:
        ValueError: it is not vLLM's own console script, so its Python is not known.
        subprocess.CalledProcessError: the model could not be made.
    """
    words = interpreter(executable)
    if words is None:
        raise ValueError(f"{executable} is not vLLM's own console script")
    model = folder / "tiny-llama"
    subprocess.run([*words, str(install.TINY_MODEL), str(model)], check=True, capture_output=True)
    return RealVllm(Path(executable), Path(words[0]), model, dict(GPU_ENVIRONMENT))


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
