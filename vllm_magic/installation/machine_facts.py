"""What this machine has: the facts that decide which vLLM it can run."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.children.child import ChildProcess
from vllm_magic.errors import VllmMagicError
from vllm_magic.installation.releases import DRIVER_OF, Number
from vllm_magic.linux import disk, home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe

_SMI_LIMIT = 10.0  # seconds for nvidia-smi, which may have to initialise the driver
_DISK_LIMIT = 2.0  # seconds for a disk to tell its free space
_LONGEST_ANSWER = 2**20  # bytes
_MINORS = range(9, 16)  # of Python 3
# The folder of a Python that uv has installed. The wheels are not for PyPy, nor for a Python without its global lock
# (cpython-3.13.0+freethreaded-...).
_BY_UV = re.compile(r"cpython-(\d+)\.(\d+)\.\d+-linux-[\w-]+")
_NVIDIA = "0x10de"  # the vendor of a PCI device
_DISPLAYS = ("0x0300", "0x0302")  # the classes of PCI devices that are GPUs: VGA controller, 3D controller
_PCI = Path("/sys/bus/pci/devices")
_SMI_ELSEWHERE = "/usr/lib/wsl/lib/nvidia-smi"  # WSL has it here, which is not on PATH in every shell
_SMI_QUERIES = (
    "driver_version,name,compute_cap",
    "driver_version,name",
)  # a driver before 510 does not know compute_cap


@dataclass(frozen=True)
class FoundGpu:
    """A GPU, as far as the choice of vLLM depends on it.

    Attributes:
        name: the name of the product.
        capability: CUDA's compute capability; None if the driver does not say.
    """

    name: str
    capability: Number | None


@dataclass(frozen=True)
class FoundPython:
    """A Python on this machine.

    Attributes:
        version: its version, such as (3, 12).
        path: the path of its program.
        has_headers: whether Python.h is there. Triton and torch.compile compile with it.
    """

    version: Number
    path: str
    has_headers: bool = True


@dataclass(frozen=True)
class InstallationFacts:
    """What this machine has.

    Attributes:
        machine: the architecture as Linux names it, "x86_64" or "aarch64".
        glibc: the version of glibc; None for another C library (musl).
        driver: the version of the NVIDIA driver, "550.54.15"; None if there is none.
        cuda: the newest CUDA that the driver runs; None if there is no driver.
        gpus: the NVIDIA GPUs.
        gpu_problem: why no GPU can be seen, in a few words; "" if there are GPUs.
        has_nvidia_device: whether an NVIDIA GPU is on the PCI bus, with or without a driver.
        pythons: the Pythons at hand, that of this process first.
        uv: the path of uv, which can bring other Pythons; None if it is not there.
        free: the free bytes on the disk of the target folder; None if the disk does not say.
    """

    machine: str
    glibc: Number | None
    driver: str | None
    cuda: Number | None
    gpus: tuple[FoundGpu, ...]
    gpu_problem: str
    has_nvidia_device: bool
    pythons: tuple[FoundPython, ...]
    uv: str | None
    free: int | None

    @property
    def branch(self) -> int:
        """The branch of the driver, such as 550; 0 if there is no driver."""
        found = re.match(r"\d+", self.driver or "")
        return int(found[0]) if found else 0


def read(probe: Probe, folder: Path, uv: str | None = None) -> InstallationFacts:
    """Read the facts of this machine. Raises no error.

    Args:
        probe: reads the GPUs.
        folder: where the environment is to be. The folder need not exist.
        uv: the path of uv; by default the one on PATH.
    """
    snapshot = probe.snapshot()
    uv = uv or shutil.which("uv")
    driver, cuda, gpus = _from_nvml(snapshot) if snapshot.gpus else _from_nvidia_smi()
    return InstallationFacts(
        machine=platform.machine(),
        glibc=_glibc(),
        driver=driver,
        cuda=cuda or cuda_of(driver),
        gpus=gpus,
        gpu_problem="" if gpus else snapshot.problem or "no GPU is seen",
        has_nvidia_device=_has_nvidia_device(),
        pythons=_pythons(uv),
        uv=uv,
        free=_free(folder),
    )


def _from_nvml(snapshot: Snapshot) -> tuple[str | None, Number | None, tuple[FoundGpu, ...]]:
    return snapshot.driver, snapshot.cuda, tuple(FoundGpu(gpu.name, gpu.capability) for gpu in snapshot.gpus)


def _from_nvidia_smi() -> tuple[str | None, Number | None, tuple[FoundGpu, ...]]:
    """Return driver, CUDA and GPUs as nvidia-smi tells them, where the library of NVML is not found."""
    program = shutil.which("nvidia-smi") or shutil.which(_SMI_ELSEWHERE)
    if program is None:
        return None, None, ()
    for query in _SMI_QUERIES:
        listed = _output([program, f"--query-gpu={query}", "--format=csv,noheader"], _SMI_LIMIT)
        if listed:
            return parse_nvidia_smi(listed)
    return None, None, ()


def parse_nvidia_smi(text: str) -> tuple[str | None, Number | None, tuple[FoundGpu, ...]]:
    """Return driver, CUDA (None: it is not listed) and GPUs from lines such as "550.54.15, Tesla T4, 7.5"."""
    rows = [line.split(", ") for line in text.splitlines() if ", " in line]
    gpus = tuple(FoundGpu(row[1], _number(row[2]) if row[2:] else None) for row in rows)
    return (rows[0][0] if rows else None), None, gpus


def cuda_of(driver: str | None) -> Number | None:
    """Return the newest CUDA that a driver runs, from its version; None for an older driver than those of CUDA 11."""
    found = re.match(r"\d+", driver or "")
    branch = int(found[0]) if found else 0
    return max((cuda for cuda, first in DRIVER_OF.items() if first <= branch), default=None)


def _glibc() -> Number | None:
    with suppress(ValueError, OSError):  # musl does not know the name
        return _number((os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc "))
    return None


def _number(text: str) -> Number | None:
    found = re.match(r"\s*(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _has_nvidia_device() -> bool:
    with suppress(OSError):
        return any(_is_nvidia_gpu(device) for device in _PCI.iterdir())
    return False


def _is_nvidia_gpu(device: Path) -> bool:
    with suppress(OSError):
        return device.joinpath("vendor").read_text().strip() == _NVIDIA and device.joinpath(
            "class"
        ).read_text().startswith(_DISPLAYS)
    return False


def _pythons(uv: str | None) -> tuple[FoundPython, ...]:
    """Return the Pythons at hand, that of this process first, each version once.

    ``uv python list`` would run each of them, which takes more than a second where pyenv is installed.
    """
    include = Path(sysconfig.get_path("include"), "Python.h")
    own = FoundPython((sys.version_info[0], sys.version_info[1]), sys.executable, include.exists())
    found = [own, *(_installed_by_uv() if uv else ()), *_pythons_on_path()]
    by_version: dict[Number, FoundPython] = {}
    for one in found:
        by_version.setdefault(one.version, one)
    return tuple(by_version.values())


def _installed_by_uv() -> list[FoundPython]:
    """Return the Pythons that uv has installed, from the names of their folders (``uv python dir``)."""
    with suppress(OSError):
        folder = os.environ.get("UV_PYTHON_INSTALL_DIR")
        data = os.environ.get("XDG_DATA_HOME") or home.expanded("~/.local/share")
        path = Path(folder or Path(data, "uv", "python")).absolute()
        return list(disk.call(path, _installed_in, path, limit=_DISK_LIMIT))
    return []


def _installed_in(folder: Path) -> list[FoundPython]:
    found = []
    for one in folder.iterdir():
        match = _BY_UV.fullmatch(one.name)
        if match:
            version = int(match[1]), int(match[2])
            path = str(one / "bin" / f"python{version[0]}.{version[1]}")
            found.append(FoundPython(version, path, _has_headers(path, version)))
    return found


def _pythons_on_path() -> Iterator[FoundPython]:
    for minor in _MINORS:
        path = shutil.which(f"python3.{minor}")
        if path and _is_program(path):
            yield FoundPython((3, minor), path, _has_headers(path, (3, minor)))


def _is_program(path: str) -> bool:
    """Whether this is a program, and no script of pyenv or asdf, which may name a Python that is switched off."""
    with suppress(OSError), Path(path).open("rb") as file:
        return file.read(4) == b"\x7fELF"
    return False


def _has_headers(path: str, version: Number) -> bool:
    """Whether the header files are where the Python of this path expects them: PREFIX/bin/python, PREFIX/include/python3.X."""
    prefix = Path(os.path.realpath(path)).parent.parent
    return prefix.joinpath("include", f"python{version[0]}.{version[1]}", "Python.h").exists()


def _free(folder: Path) -> int | None:
    """Return the free bytes on the disk of a folder, which need not exist."""
    with suppress(OSError):
        return int(disk.call(folder, _free_at, folder, limit=_DISK_LIMIT))
    return None


def _free_at(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _output(words: list[str], limit: float) -> str | None:
    """Return what a program prints; None if it fails or takes too long."""
    try:
        child = ChildProcess(words, {"LC_ALL": "C.UTF-8"}, cwd="/", stderr=subprocess.DEVNULL)
    except VllmMagicError:
        return None
    with closing(child):
        said = child.output(limit, _LONGEST_ANSWER)
    return None if said is None else said.decode("utf-8", "replace")
