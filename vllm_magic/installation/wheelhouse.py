"""Download all packages of an environment into a folder of wheels, for a machine without internet (``--from DIR`` there).

uv chooses the versions for the other machine, and pip downloads them: uv cannot download without an installation, and
pip chooses for the Python that runs it, whatever it downloads for. The Python itself is not in the folder.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vllm_magic.errors import InstallFailed, reason
from vllm_magic.installation import room, uv
from vllm_magic.installation.build import NEVER, UNUSABLE
from vllm_magic.installation.plan import Backend
from vllm_magic.installation.programs import Programs
from vllm_magic.installation.progress import InstallProgress, Step
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllm_magic.installation.plan import InstallPlan

OLDEST_GLIBC = 5  # the minor version in the oldest tag of wheels, manylinux1 (PEP 600)
_INDEX = re.compile(r"^\s*# from (\S+)$", re.MULTILINE)  # uv's note below a package
_OLD_TAGS = ((17, "manylinux2014"), (12, "manylinux2010"), (5, "manylinux1"))


@dataclass(frozen=True)
class TargetMachine:
    """The machine that is to use the wheels.

    Attributes:
        architecture: as ``uname -m`` prints it, "x86_64" or "aarch64".
        glibc: the minor version of its C library: 31 for glibc 2.31.
    """

    architecture: str = "x86_64"
    glibc: int = 28

    @property
    def platforms(self) -> list[str]:
        """The tags of the wheels that run there, the newest first."""
        tags = [f"manylinux_2_{minor}" for minor in range(self.glibc, OLDEST_GLIBC - 1, -1)]
        tags += [name for minor, name in _OLD_TAGS if minor <= self.glibc]
        return [f"{tag}_{self.architecture}" for tag in (*tags, "linux")]


def download(
    plan: InstallPlan,
    folder: Path,
    machine: TargetMachine,
    report: Callable[[InstallProgress], None] = lambda _: None,
) -> None:
    """Download vLLM and all that it needs. Wheels that are in the folder already are not downloaded again.

    Args:
        plan: what is to be installed there.
        folder: the folder for the wheels; it is made if it is missing.
        machine: the machine that is to use them.
        report: called with the progress at least once a second, in this thread.

    Raises:
        InstallFailed: the packages could not be downloaded; the message says why, and what to do.
    """
    program = _programs_at_hand()
    folder = folder.absolute()
    try:
        disk.call(folder, _make, folder)
    except OSError as error:
        raise InstallFailed(
            f"{folder} cannot be written: {reason(error)}", "Name another folder: --download DIR"
        ) from None
    room.check_wheels(plan, folder)
    programs = Programs(folder / "download.log", report, plan.download)
    programs.begin(Step.CHOOSE)
    asked, chosen, overrides = (
        folder / name for name in ("requirements.in", "requirements.txt", "overrides.txt")
    )
    asked.write_text(f"{plan.package}=={plan.version}\n", encoding="utf-8")
    is_for_cpu = plan.backend is Backend.CPU
    overrides.write_text("".join(f"{name} ; {NEVER}\n" for name in UNUSABLE if is_for_cpu), encoding="utf-8")
    backend = () if plan.is_pypi_build else (f"--torch-backend={plan.backend.value}",)
    programs.run(
        [
            *(program, "pip", "compile", "--quiet", "--only-binary", ":all:", "--no-header", "--no-annotate"),
            "--emit-index-annotation",
            *("--python-version", plan.python),
            *("--python-platform", f"{machine.architecture}-manylinux_2_{machine.glibc}"),
            *("--overrides", str(overrides), "--output-file", str(chosen), *backend, str(asked)),
        ],
        cwd=folder,
        env=uv.index_settings(os.environ),
    )
    overrides.unlink()
    asked.unlink()
    indexes = () if plan.is_pypi_build else _indexes(chosen)
    extra = [word for index in indexes for word in ("--extra-index-url", index)]
    platforms = [word for tag in machine.platforms for word in ("--platform", tag)]
    programs.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"),
            *("--progress-bar", "off", "--no-deps", "--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", plan.python, *platforms, *extra),
            *("--dest", str(folder), "--requirement", str(chosen)),
        ],
        cwd=folder,
    )
    report(InstallProgress(Step.DONE, expected=plan.download))


def _indexes(chosen: Path) -> list[str]:
    """Return the indexes in which uv has found the packages: of torch, that may be PyTorch's own, which pip does not know."""
    return sorted(set(_INDEX.findall(chosen.read_text(encoding="utf-8"))))


def _programs_at_hand() -> str:
    """Return the path of uv.

    Raises:
        InstallFailed: uv or pip is missing.
    """
    program = uv.find()
    if program is None:
        raise InstallFailed("A download for another machine needs uv", "Install it: %pip install uv")
    if find_spec("pip") is None:
        raise InstallFailed(
            "A download for another machine needs pip beside this Python",
            f"Install it: {program} pip install pip",
        )
    return program


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError("it cannot be written")
