"""Read a release that the tables do not have from the package index: uv resolves it, and downloads no wheel.

uv reads the settings of the user: its own files and variables, proxies, passwords. Of pip's settings, PIP_INDEX_URL counts.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.children.child import ChildProcess
from vllm_magic.errors import NoVllmFits
from vllm_magic.installation import releases
from vllm_magic.installation.decision import python_for
from vllm_magic.installation.releases import Number, Torch, VllmRelease

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.installation.machine_facts import InstallationFacts

LIMIT = 180.0  # seconds; a slow index takes half a minute for 200 packages
_POLL_INTERVAL = 1.0  # seconds
_GLIBC = (17, 28, *range(31, 41))  # the minor versions of glibc 2 that uv knows (``--python-platform``)
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+|\.post\d+|\.dev\d+)?")
_PREFIX = re.compile(r"\d+\.\d+")
# uv's words for a version, and for the beginning of one.
_NO_VERSION = re.compile(r"there is no version of|only \S+ is available and you require ")
_SHOWN = 400  # characters of uv's message
# They would make uv resolve for another environment, or other versions.
_OTHER_PACKAGES = (
    "UV_CONSTRAINT",
    "UV_OVERRIDE",
    "UV_EXCLUDE",
    "UV_TORCH_BACKEND",
    "UV_REQUIRE_HASHES",
    "UV_PYTHON",
)


@dataclass(frozen=True)
class ResolutionTarget:
    """The machine for which uv resolves.

    Attributes:
        machine: its architecture.
        glibc: its glibc.
        python: the version of Python.
    """

    machine: str
    glibc: Number
    python: Number


def known_releases(
    wanted: str | None, facts: InstallationFacts, *, cpu: bool, pre: bool
) -> tuple[VllmRelease, ...]:
    """Return the releases to choose from: those of the tables, and the one in the package index that the user asks for.

    Args:
        wanted: the version that the user asks for, or its beginning; None for the newest.
        facts: what the machine has.
        cpu: whether the user asks for the build for the CPU.
        pre: whether the user wants pre-releases. The newest in the package index then counts too.

    Raises:
        NoVllmFits: the version is not in the tables, and cannot be read.
    """
    is_for_cpu = cpu or not facts.gpus
    table = releases.CPU_RELEASES if is_for_cpu else releases.GPU_RELEASES
    package = table[0].package
    if wanted is None and not pre:
        return releases.RELEASES
    if wanted is not None and not _VERSION.fullmatch(wanted):
        raise NoVllmFits(
            f"{wanted!r} is not a version. Give one such as {table[0].version}: %vllm install {table[0].version}"
        )
    if wanted is not None and any(
        one.version == wanted or one.version.startswith(f"{wanted}.") for one in table
    ):
        return releases.RELEASES
    if facts.uv is None or facts.glibc is None:
        raise NoVllmFits(
            f"vLLM {wanted or 'pre-releases'}: this vllm_magic knows {table[-1].version} to {table[0].version}, and reads others from "
            "the package index with uv, which is not there. Install it: pip install uv"
        )
    target = ResolutionTarget(facts.machine, facts.glibc, python_for(table[0], facts) or table[0].pythons[1])
    try:
        found = read(facts.uv, package, _specifier(wanted, table[0]), target)
    except NoVllmFits as error:
        known = f"This vllm_magic knows {table[-1].version} to {table[0].version}"
        if _NO_VERSION.search(str(error)):
            raise NoVllmFits(f"The package index has no {package} {wanted}. {known}.") from None
        raise NoVllmFits(
            f"{package} {wanted or 'pre-releases'} cannot be read from the package index: {error} {known}."
        ) from None
    return (
        releases.RELEASES
        if any(one.version == found.version for one in table)
        else (found, *releases.RELEASES)
    )


def _specifier(wanted: str | None, newest: VllmRelease) -> str:
    if wanted is None:
        return f">={newest.version}rc0"  # the name of a pre-release lets uv take one, of this package alone
    return f"=={wanted}.*" if _PREFIX.fullmatch(wanted) else f"=={wanted}"


def read(
    uv: str, package: str, specifier: str, target: ResolutionTarget, limit: float = LIMIT
) -> VllmRelease:
    """Return the newest release that a specifier allows.

    Args:
        uv: the path of uv.
        package: the name of the package.
        specifier: the versions, such as ">=0.33"; "" for all.
        target: the machine.
        limit: seconds for uv.

    Raises:
        NoVllmFits: no release fits the machine, or the package index cannot be read; the message is that of uv.
        VllmMagicError: uv cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-magic-") as folder:
        Path(folder, "requirements.txt").write_text(f"{package}{specifier}\n", encoding="utf-8")
        words = [
            uv,
            "pip",
            "compile",
            "requirements.txt",
            "--format",
            "pylock.toml",
            "--output-file",
            "pylock.toml",
        ]
        words += ["--python-version", _text(target.python), "--python-platform", _platform(target)]
        words += ["--only-binary", ":all:", "--quiet"]
        if package == releases.CPU_PACKAGE:
            words += ["--torch-backend", "cpu"]
        _run(words, folder, limit)
        return parse(Path(folder, "pylock.toml").read_text(encoding="utf-8"), package, target)


def _platform(target: ResolutionTarget) -> str:
    minors = [minor for minor in _GLIBC if (2, minor) <= target.glibc]
    return f"{target.machine}-manylinux_2_{max(minors, default=_GLIBC[0])}"


def _run(words: list[str], folder: str, limit: float) -> None:
    last: deque[str] = deque(maxlen=100)
    deadline = time.monotonic() + limit
    with closing(ChildProcess(words, _environment(os.environ), cwd=folder)) as child:
        for lines in child.lines(_POLL_INTERVAL):
            last += lines
            if time.monotonic() > deadline:
                raise NoVllmFits(f"uv has not answered within {limit:g} s. Check the network, and try again.")
        code = child.exit_code()
    if code != 0:
        said = re.sub(r"\s+", " ", " ".join(last)).strip() or f"uv ended with exit code {code}"
        raise NoVllmFits(said if len(said) <= _SHOWN else f"{said[:_SHOWN]} ...")


def _environment(environ: Mapping[str, str]) -> dict[str, str | None]:
    env: dict[str, str | None] = {**dict.fromkeys(_OTHER_PACKAGES), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    index = environ.get("PIP_INDEX_URL")
    if index and not environ.get("UV_DEFAULT_INDEX") and not environ.get("UV_INDEX_URL"):
        env["UV_DEFAULT_INDEX"] = index
    return env


def parse(lock: str, package: str, target: ResolutionTarget) -> VllmRelease:
    """Return the release that is in a file ``pylock.toml`` (PEP 751) of uv.

    Raises:
        NoVllmFits: the file does not have it.
    """
    packages: dict[str, dict[str, Any]] = {str(one["name"]): one for one in _toml(lock).get("packages", ())}
    if package not in packages or "torch" not in packages:
        raise NoVllmFits(f"{package} and torch are not among the packages that uv resolves.")
    is_for_cpu = package == releases.CPU_PACKAGE
    cuda = None if is_for_cpu else _cuda(packages)
    if cuda is None and not is_for_cpu:
        raise NoVllmFits(f"its torch has no CUDA on {target.machine} in the package index.")
    version = str(packages["torch"]["version"])
    table = releases.CPU_RELEASES if is_for_cpu else releases.GPU_RELEASES
    return VllmRelease(
        version=str(packages[package]["version"]),
        package=package,
        pythons=(target.python, target.python),
        torch=Torch(version.partition("+")[0], cuda, () if "+" in version else (target.machine,)),
        glibc={target.machine: target.glibc},
        capability=table[0].capability,
        download=sum(map(_size, packages.values())) or table[0].download,
    )


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return dict(tomllib.loads(text))


def _cuda(packages: Mapping[str, Mapping[str, Any]]) -> Number | None:
    """Return the CUDA of torch, from the package of its runtime: nvidia-cuda-runtime-cu12 12.8.90."""
    for name, one in packages.items():
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", name):
            major, minor = str(one["version"]).split(".")[:2]
            return int(major), int(minor)
    return None


def _size(package: Mapping[str, Any]) -> int:
    """Return the bytes of the wheel that is installed: of those for the platform, the larger one, which is compiled."""
    return max((int(wheel.get("size", 0)) for wheel in package.get("wheels", ())), default=0)


def _text(number: Number) -> str:
    return f"{number[0]}.{number[1]}"
