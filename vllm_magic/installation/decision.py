"""Choose the vLLM for a machine. Pure: facts in, a plan out. Nothing is downloaded, and the package index is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from vllm_magic.errors import NoVllmFits
from vllm_magic.installation import releases
from vllm_magic.installation.plan import Backend, InstallPlan
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllm_magic.installation.machine_facts import FoundGpu, InstallationFacts
    from vllm_magic.installation.releases import Number, VllmRelease

_ARCHITECTURES = (releases.X86_64, releases.AARCH64)
# The order of preference: most of vLLM's own tests run on 3.12 (its Dockerfile), and it is in the middle of what others support.
_PYTHONS: tuple[Number, ...] = ((3, 12), (3, 13), (3, 11), (3, 10), (3, 14), (3, 9))
_CPU_INSTEAD = "Or install the build for the CPU: %vllm install --cpu"
_MOST_REASONS = 3


class _Kind(Enum):
    """What of the machine does not fit a release."""

    ARCHITECTURE = auto()
    GLIBC = auto()
    PYTHON = auto()
    DRIVER = auto()
    OLD_GPU = auto()
    NEW_GPU = auto()


@dataclass(frozen=True)
class _Obstacle:
    """Why a release does not fit.

    Attributes:
        kind: what does not fit.
        text: the rest of a sentence that begins with the release: "needs glibc 2.31, and this machine has 2.28".
        remedy: what would remove the obstacle, as the beginning of a sentence; "" for nothing.
    """

    kind: _Kind
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class _Build:
    """The build of torch for a release.

    Attributes:
        backend: its name.
        is_from_package_index: whether the package index has it.
    """

    backend: Backend
    is_from_package_index: bool


def decide(
    facts: InstallationFacts,
    wanted: str | None,
    *,
    cpu: bool,
    pre: bool,
    known: Sequence[VllmRelease] = releases.RELEASES,
) -> InstallPlan:
    """Choose vLLM, its Python and its torch for a machine.

    Args:
        facts: what the machine has.
        wanted: the version that the user asks for, "0.17.0", or its beginning, "0.17"; None for the newest that fits.
        cpu: whether the user asks for the build for the CPU.
        pre: whether a pre-release may be chosen.
        known: the releases to choose from.

    Raises:
        NoVllmFits: nothing fits; the message says why, what to do, and which version comes nearest.
    """
    _check_system(facts)
    is_for_cpu = cpu or not facts.gpus
    if is_for_cpu and not cpu:
        _check_for_lost_gpu(facts)
    gpus, left_out = ((), ()) if is_for_cpu else _usable(facts)
    package = releases.CPU_PACKAGE if is_for_cpu else releases.GPU_PACKAGE
    offered = sorted(
        (one for one in known if one.package == package and (pre or wanted or not one.is_pre_release)),
        key=lambda one: releases.order(one.version),
        reverse=True,
    )
    obstacles = {one.version: _obstacles(one, facts, gpus) for one in offered}
    fitting = [one for one in offered if not obstacles[one.version]]
    if wanted is not None:
        release = _named(wanted, offered, fitting, obstacles, is_for_cpu=is_for_cpu)
    elif fitting:
        release = fitting[0]
    else:
        raise _nothing_fits(facts, offered, obstacles, is_for_cpu=is_for_cpu)
    plan = _plan(release, facts, gpus, ())
    _check_disk(plan, facts)
    opening = _opening(plan, release, facts, gpus, wanted, offered, obstacles)
    notes = _notes(plan, release, facts, gpus, left_out)
    return _plan(release, facts, gpus, (opening, *notes)[:_MOST_REASONS])


def _check_system(facts: InstallationFacts) -> None:
    if facts.machine not in _ARCHITECTURES:
        raise NoVllmFits(
            f"vLLM has wheels for {' and '.join(_ARCHITECTURES)}, and this machine is {facts.machine}. "
            "Build vLLM from its source, or use another machine."
        )
    if facts.glibc is None:
        raise NoVllmFits(
            "vLLM and torch have wheels for glibc only, and this system has another C library (musl, as Alpine Linux). "
            "Use a system with glibc: a container of Debian or Ubuntu, for example."
        )


def _check_for_lost_gpu(facts: InstallationFacts) -> None:
    """Refuse to install the build for the CPU in silence where a GPU cannot be seen."""
    if facts.has_nvidia_device:
        raise NoVllmFits(
            f"This machine has an NVIDIA GPU, but it cannot be used: {facts.gpu_problem}. Install or repair the driver; in a "
            f"container, start the container with the GPU. {_CPU_INSTEAD}."
        )


def _usable(facts: InstallationFacts) -> tuple[tuple[FoundGpu, ...], tuple[FoundGpu, ...]]:
    """Return the GPUs that some vLLM can use, and those that none can use."""
    least = min(one.capability for one in releases.RELEASES if one.capability)
    usable = tuple(gpu for gpu in facts.gpus if gpu.capability is None or gpu.capability >= least)
    if not usable:
        newest = max(facts.gpus, key=lambda gpu: gpu.capability or (0, 0))
        raise NoVllmFits(
            f"No vLLM runs on {_described(newest)}: each needs a GPU of compute capability {_text(least)} or newer. "
            f"Use another machine. {_CPU_INSTEAD}."
        )
    return usable, tuple(gpu for gpu in facts.gpus if gpu not in usable)


def _check_disk(plan: InstallPlan, facts: InstallationFacts) -> None:
    if facts.free is not None and facts.free < plan.disk:
        raise NoVllmFits(
            f"vLLM {plan.version} takes about {gib(plan.disk, 1)} on the disk, and {gib(facts.free, 1)} are free. "
            "Free some space, or install into a folder on another disk: --into DIR."
        )


# What a release needs.


def _obstacles(release: VllmRelease, facts: InstallationFacts, gpus: Sequence[FoundGpu]) -> list[_Obstacle]:
    """Return all that keeps a release from this machine."""
    least_glibc = release.glibc.get(facts.machine)
    if least_glibc is None:
        return [_Obstacle(_Kind.ARCHITECTURE, f"has no wheel for {facts.machine}")]
    found = []
    if facts.glibc and facts.glibc < least_glibc:
        found.append(
            _Obstacle(
                _Kind.GLIBC,
                f"needs glibc {_text(least_glibc)}, and this system has {_text(facts.glibc)}",
                "use a newer system, or a container of one",
            )
        )
    if python_for(release, facts) is None:
        found.append(
            _Obstacle(
                _Kind.PYTHON,
                f"needs Python {_range(release)}, and this machine has {_pythons(facts)}",
                "install uv, which brings the right Python (pip install uv)",
            )
        )
    return found + (_gpu_obstacles(release, facts, gpus) if release.torch.cuda else [])


def _gpu_obstacles(
    release: VllmRelease, facts: InstallationFacts, gpus: Sequence[FoundGpu]
) -> list[_Obstacle]:
    found = []
    least = release.capability
    oldest, newest = _oldest(gpus), _newest(gpus)
    if least and oldest and oldest.capability and oldest.capability < least:
        found.append(
            _Obstacle(
                _Kind.OLD_GPU,
                f"needs compute capability {_text(least)}, and {oldest.name} has {_text(oldest.capability)}",
            )
        )
    builds = _builds(release, facts)
    runnable = [one for one in builds if _runs(facts, one)]
    if not runnable:
        major = (release.torch.cuda or (0, 0))[0]
        runs = f"runs CUDA {facts.cuda[0]}" if facts.cuda else "is too old for it"
        found.append(
            _Obstacle(
                _Kind.DRIVER,
                f"needs CUDA {major}, and the driver {facts.branch} {runs}",
                f"update the driver to {releases.LEAST_DRIVER.get(major, 'a branch')} or newer",
            )
        )
    elif not any(_has_kernels(one, newest) for one in runnable) and newest:
        found.append(
            _Obstacle(_Kind.NEW_GPU, f"has no kernels for {_described(newest)}, which need CUDA 12.8")
        )
    return found


def _builds(release: VllmRelease, facts: InstallationFacts) -> list[_Build]:
    """Return the builds of torch that fit the wheel of this release, the best first: that of the package index."""
    torch = release.torch
    own = [_Build(_backend(torch.cuda), True)] if facts.machine in torch.index_architectures else []
    return own + [_Build(backend, False) for backend in torch.others]


def _backend(cuda: Number | None) -> Backend:
    try:
        return Backend(f"cu{cuda[0]}{cuda[1]}" if cuda else "cpu")
    except ValueError:
        raise NoVllmFits(
            f"This vLLM comes with CUDA {_text(cuda)}, which this vllm_magic does not know. Update vllm_magic, or name an older "
            "version: %vllm install VERSION."
        ) from None


def _cuda(build: _Build) -> Number:
    digits = build.backend.value.removeprefix("cu")
    return int(digits[:2]), int(digits[2:])


def _runs(facts: InstallationFacts, build: _Build) -> bool:
    """Whether the driver runs this build: any with the same major version of CUDA, or an older one."""
    return facts.cuda is not None and _cuda(build)[0] <= facts.cuda[0]


def _has_kernels(build: _Build, newest: FoundGpu | None) -> bool:
    is_blackwell = newest and newest.capability and newest.capability >= releases.BLACKWELL
    return not is_blackwell or _cuda(build) >= releases.BLACKWELL_CUDA


def _build(release: VllmRelease, facts: InstallationFacts, gpus: Sequence[FoundGpu]) -> _Build:
    if release.torch.cuda is None:
        return _Build(Backend.CPU, facts.machine in release.torch.index_architectures)
    newest = _newest(gpus)
    return next(one for one in _builds(release, facts) if _runs(facts, one) and _has_kernels(one, newest))


def python_for(release: VllmRelease, facts: InstallationFacts) -> Number | None:
    """Return the Python for a release; None if no Python fits, and uv is not there to bring one.

    Triton and torch.compile compile C code at the first start, and need the header files of Python. Distributions put them in a
    package of their own, which is often missing. The Pythons that uv brings have them.
    """
    first, last = release.pythons
    fitting = [one for one in facts.pythons if first <= one.version <= last]
    complete = [one.version for one in fitting if one.has_headers]
    if complete:
        own = facts.pythons[0].version
        return own if own in complete else min(complete, key=_rank)
    there = [one.version for one in fitting]
    brought = [one for one in _PYTHONS if first <= one <= last and one not in there]
    return brought[0] if facts.uv and brought else min(there, key=_rank, default=None)


def _rank(python: Number) -> int:
    return _PYTHONS.index(python) if python in _PYTHONS else len(_PYTHONS)


# What is said.


def _named(
    wanted: str,
    offered: Sequence[VllmRelease],
    fitting: Sequence[VllmRelease],
    obstacles: dict[str, list[_Obstacle]],
    *,
    is_for_cpu: bool,
) -> VllmRelease:
    """Return the release that the user asks for.

    Raises:
        NoVllmFits: it does not exist, or does not fit.
    """
    named = [one for one in offered if one.version == wanted or one.version.startswith(f"{wanted}.")]
    exact = [one for one in named if one.version == wanted]
    build = " for the CPU" if is_for_cpu else ""
    nearest = _nearest(wanted, fitting)
    instead = f"The nearest that fits this machine: %vllm install {nearest.version}" if nearest else ""
    if not named:
        raise NoVllmFits(
            f"There is no vLLM {wanted}{build} that vllm_magic can install. {instead or 'Check the version'}."
        )
    for one in exact or named:
        if not obstacles[one.version]:
            return one
    first = (exact or named)[0]
    found = obstacles[first.version]
    remedy = _remedy(found)
    raise NoVllmFits(
        f"vLLM {first.version}{build} does not fit this machine: it {_joined(one.text for one in found)}. "
        + " ".join(
            f"{sentence}."
            for sentence in (instead, remedy and f"Or {remedy}" if instead else _capital(remedy))
            if sentence
        )
    )


def _nearest(wanted: str, fitting: Sequence[VllmRelease]) -> VllmRelease | None:
    """Return the newest fitting release that is older than the wanted one, else the oldest one that is newer."""
    key = releases.order(wanted)
    older = [one for one in fitting if releases.order(one.version) < key]
    return older[0] if older else (fitting[-1] if fitting else None)


def _nothing_fits(
    facts: InstallationFacts,
    offered: Sequence[VllmRelease],
    obstacles: dict[str, list[_Obstacle]],
    *,
    is_for_cpu: bool,
) -> NoVllmFits:
    """Return the error for a machine that no release fits. It names what stands in the way of the release with the fewest needs."""
    with_wheel = [one for one in offered if facts.machine in one.glibc]
    easiest = min(reversed(with_wheel), key=lambda one: len(obstacles[one.version]))  # of several, the oldest
    found = obstacles[easiest.version]
    remedy = _capital(_remedy(found))
    instead = "" if is_for_cpu or {one.kind for one in found} & {_Kind.GLIBC, _Kind.PYTHON} else _CPU_INSTEAD
    return NoVllmFits(
        f"No vLLM fits this machine: even {easiest.version} {_joined(one.text for one in found)}. "
        + " ".join(f"{sentence}." for sentence in (remedy, instead) if sentence)
    )


def _opening(
    plan: InstallPlan,
    release: VllmRelease,
    facts: InstallationFacts,
    gpus: Sequence[FoundGpu],
    wanted: str | None,
    offered: Sequence[VllmRelease],
    obstacles: dict[str, list[_Obstacle]],
) -> str:
    """Return the sentences that say what is installed, and why this version."""
    if not gpus:
        why = "as asked" if facts.gpus else f"since no NVIDIA GPU is there ({facts.gpu_problem})"
        return f"vLLM {release.version} for the CPU, {why}: it is slow, and good for small models."
    what = f"vLLM {release.version} with CUDA {_text(_cuda_of(plan.backend))}"
    runs = f"the driver {facts.branch} runs CUDA {facts.cuda[0] if facts.cuda else '?'}"
    if wanted is not None:
        return f"{what}, as asked: {runs} and older."
    newer = offered[: [one.version for one in offered].index(release.version)]
    if not newer:
        return f"{what} is the newest, and {runs}."
    shared = set.intersection(*({one.kind for one in obstacles[other.version]} for other in newer))
    next_one = newer[-1]
    if shared == {_Kind.DRIVER}:
        opening = f"{_capital(runs)}: {what} is the newest for it."
    else:
        found = [one.text for one in obstacles[next_one.version] if not shared or one.kind in shared]
        opening = f"{what} is the newest for this machine: {next_one.version} {_joined(found)}."
    remedy = _remedy(obstacles[newer[0].version])
    return f"{opening} For a newer one, {remedy}." if remedy else opening


def _notes(
    plan: InstallPlan,
    release: VllmRelease,
    facts: InstallationFacts,
    gpus: Sequence[FoundGpu],
    left_out: Sequence[FoundGpu],
) -> list[str]:
    """Return what else the user should know, the most important first."""
    notes = []
    if left_out:
        names = ", ".join(dict.fromkeys(_described(gpu) for gpu in left_out))
        notes.append(f"No vLLM runs on {names}: leave it out with --gpus.")
    oldest, newest = _oldest(gpus), _newest(gpus)
    if oldest and oldest.capability and oldest.capability < releases.BFLOAT16:
        notes.append(_on_old_gpu(oldest, release))
    if (
        newest
        and newest.capability
        and newest.capability >= releases.HOPPER
        and facts.branch < releases.PTX_DRIVER
    ):
        notes.append(
            "A start that says 'the provided PTX was compiled with an unsupported toolchain' needs the driver "
            f"{releases.PTX_DRIVER} or newer."
        )
    if gpus and not plan.is_pypi_build:
        notes.append(f"This build of torch ({plan.backend.value}) comes from PyTorch's own package index.")
    if not any(f"{one.version[0]}.{one.version[1]}" == plan.python for one in facts.pythons):
        notes.append(_why_another_python(plan, release, facts))
    return notes


def _on_old_gpu(gpu: FoundGpu, release: VllmRelease) -> str:
    note = f"{gpu.name} has no bfloat16: vLLM computes with float16 there (--dtype half)."
    favourite = releases.FAVOURITE_ON_T4
    if gpu.capability == releases.T4 and releases.order(release.version) > releases.order(favourite):
        return f"{note} If a start fails, {favourite} is what most notebooks use on a T4: %vllm install {favourite}"
    return note


def _why_another_python(plan: InstallPlan, release: VllmRelease, facts: InstallationFacts) -> str:
    first, last = release.pythons
    if any(first <= one.version <= last for one in facts.pythons):
        return f"uv brings Python {plan.python}: those at hand lack the header files (Python.h) that torch compiles with."
    return f"uv brings Python {plan.python}: this vLLM needs {_range(release)}, and this machine has {_pythons(facts)}."


def _plan(
    release: VllmRelease, facts: InstallationFacts, gpus: Sequence[FoundGpu], reasons: tuple[str, ...]
) -> InstallPlan:
    build, python = _build(release, facts, gpus), python_for(release, facts)
    return InstallPlan(
        version=release.version,
        package=release.package,
        python=_text(python),
        backend=build.backend,
        is_pypi_build=build.is_from_package_index,
        download=release.download,
        disk=release.disk,
        reasons=reasons,
    )


def _cuda_of(backend: Backend) -> Number:
    return _cuda(_Build(backend, True))


def _remedy(obstacles: Iterable[_Obstacle]) -> str:
    """Return what would remove all these obstacles, as a part of a sentence; "" if something cannot be removed."""
    remedies = [one.remedy for one in obstacles]
    return " and ".join(remedies) if all(remedies) else ""


def _joined(texts: Iterable[str]) -> str:
    return "; it also ".join(texts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _oldest(gpus: Sequence[FoundGpu]) -> FoundGpu | None:
    return min(
        (gpu for gpu in gpus if gpu.capability), key=lambda gpu: gpu.capability or (0, 0), default=None
    )


def _newest(gpus: Sequence[FoundGpu]) -> FoundGpu | None:
    return max(
        (gpu for gpu in gpus if gpu.capability), key=lambda gpu: gpu.capability or (0, 0), default=None
    )


def _described(gpu: FoundGpu) -> str:
    return f"{gpu.name} (compute capability {_text(gpu.capability)})" if gpu.capability else gpu.name


def _range(release: VllmRelease) -> str:
    first, last = release.pythons
    return _text(first) if first == last else f"{_text(first)} to {_text(last)}"


def _pythons(facts: InstallationFacts) -> str:
    return (
        ", ".join(_text(one.version) for one in sorted(facts.pythons, key=lambda one: one.version)) or "none"
    )


def _text(number: Number | None) -> str:
    return f"{number[0]}.{number[1]}" if number else "?"
