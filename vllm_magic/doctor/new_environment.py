"""Make a new environment of vLLM, as the user sees it: ``%vllm install`` and `vllm_magic.install`."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import arguments, durations
from vllm_magic.doctor import environments
from vllm_magic.engine.environments import installed, new_path
from vllm_magic.errors import InvalidOption
from vllm_magic.gpu.probe import Probe
from vllm_magic.installation import decision, machine_facts, named_machine, resolution, uv, wheelhouse
from vllm_magic.installation import install as installation
from vllm_magic.linux import home
from vllm_magic.notation import written
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from vllm_magic.doctor.environments import EnvironmentUse
    from vllm_magic.installation.machine_facts import InstallationFacts
    from vllm_magic.installation.plan import InstallPlan
    from vllm_magic.installation.progress import InstallProgress


@dataclass(frozen=True)
class PlannedEnvironment(Viewable):
    """What an installation would do.

    Attributes:
        plan: the vLLM that was chosen for this machine.
        folder: the folder of the new environment.
    """

    plan: InstallPlan
    folder: Path

    def view(self) -> View:
        """Return the plan in three lines."""
        first, *others = self.plan.text(self.folder).splitlines()
        return View(first, lines=tuple(others))


@dataclass(frozen=True)
class NewEnvironment(Viewable):
    """An environment that was made and proved.

    Attributes:
        plan: the vLLM that was chosen for this machine.
        folder: the folder of the environment.
        seconds: how long the installation took; 0.0 if it was there already.
        use: the vLLM that a start would run now.
    """

    plan: InstallPlan
    folder: Path
    seconds: float
    use: EnvironmentUse

    def view(self) -> View:
        """Return what was installed, and what starts use now."""
        took = f"and works ({durations.short_text(self.seconds)})" if self.seconds else "already"
        headline = f"vLLM {self.plan.version} is installed {took}: {self.folder}"
        if self.use.executable == str(self.folder / "bin" / "vllm"):
            return View(headline, lines=("Starts use it from now on.",))
        reason = self.use.reason or "it was chosen, or is newer"
        line = f"But a start here uses {self.use.executable}: {reason}. With --vllm {self.plan.version} it uses the new one."
        return View(headline, lines=(line,))


@dataclass(frozen=True)
class DownloadedWheels(Viewable):
    """The packages of an environment for another machine.

    Attributes:
        plan: the vLLM that was chosen for that machine.
        folder: the folder of the packages.
    """

    plan: InstallPlan
    folder: Path

    def view(self) -> View:
        """Return what was downloaded, and what to do on the other machine."""
        command = f"%vllm install {self.plan.version} --from {shlex.quote(str(self.folder))}"
        return View(
            f"All packages of vLLM {self.plan.version} are in {self.folder}.",
            lines=(
                *self.plan.reasons,
                written(f"Copy the folder to the other machine, and there: {command}"),
            ),
        )


def plan(
    version: str | None, probe: Probe, *, cpu: bool = False, pre: bool = False, into: str | None = None
) -> PlannedEnvironment:
    """Choose the vLLM for this machine, and the folder of its environment. Nothing is downloaded.

    Args:
        version: the version of vLLM, or its beginning; None for the newest that fits.
        probe: reads the GPUs.
        cpu: whether the build for the CPU is wanted although there is a GPU.
        pre: whether a pre-release may be chosen.
        into: the folder of the user for the environment; None for the main folder.

    Raises:
        NoVllmFits: no vLLM fits this machine; the message says why, and what to do.
        VllmMagicError: the folder cannot be used.
    """
    parent = new_path("new", into).parent
    facts = machine_facts.read(probe, parent, uv.find())
    chosen = _chosen(facts, version, cpu=cpu, pre=pre)
    return PlannedEnvironment(chosen, parent / chosen.name)


def _chosen(facts: InstallationFacts, version: str | None, *, cpu: bool, pre: bool) -> InstallPlan:
    known = resolution.known_releases(version, facts, cpu=cpu, pre=pre)
    return decision.decide(facts, version, cpu=cpu, pre=pre, known=known)


def download(
    version: str | None,
    machine: str | None,
    folder: str | None,
    *,
    cpu: bool = False,
    pre: bool = False,
    report: Callable[[InstallProgress], None] = lambda _: None,
) -> DownloadedWheels:
    """Download all packages that another machine needs, for an installation without internet there.

    Args:
        version: the version of vLLM, or its beginning; None for the newest that works there.
        machine: the facts of that machine (`installation.named_machine`).
        folder: the folder for the packages.
        cpu: whether the build for the CPU is wanted although there is a GPU.
        pre: whether a pre-release may be chosen.
        report: called with the progress at least once a second, in this thread.

    Raises:
        InvalidOption: the machine or the folder is missing, or the machine is not described well.
        NoVllmFits: no vLLM fits that machine.
        InstallFailed: the packages could not be downloaded.
    """
    if machine is None or folder is None:
        raise InvalidOption(
            "--download DIR and --for MACHINE belong together: the packages are for that machine. "
            f"Example: --download wheels --for {named_machine.EXAMPLE}"
        )
    facts = named_machine.parse(machine)
    chosen = _chosen(facts, version, cpu=cpu, pre=pre)
    path = Path(home.expanded(folder)).absolute()
    assert facts.glibc is not None  # noqa: S101 - a named machine has one
    target = wheelhouse.TargetMachine(facts.machine, facts.glibc[1])
    wheelhouse.download(chosen, path, target, report)
    return DownloadedWheels(chosen, path)


def make(
    planned: PlannedEnvironment,
    *,
    wheels: Path | None = None,
    wanted: str | None = None,
    report: Callable[[InstallProgress], None] = lambda _: None,
) -> NewEnvironment:
    """Make the environment and prove it; return at once if it is there already.

    Args:
        planned: what `plan` has chosen.
        wheels: a folder with all packages, for a machine without internet; None for the package index.
        wanted: the configured path of vLLM; None if none is configured.
        report: called with the progress at least once a second, in this thread.

    Raises:
        InstallFailed: vLLM could not be installed, or does not work here. The message says why, and what to do.
    """
    is_there = str(planned.folder) in {found.path for found in installed()}
    began = time.monotonic()
    installation.install(planned.plan, planned.folder, wheels=wheels, report=report)
    seconds = 0.0 if is_there else time.monotonic() - began
    return NewEnvironment(planned.plan, planned.folder, seconds, environments.used(wanted))


def install(
    version: str | None = None,
    *,
    dry_run: bool = False,
    cpu: bool = False,
    pre: bool = False,
    into: str | os.PathLike[str] | None = None,
    wheels: str | os.PathLike[str] | None = None,
    report: Callable[[InstallProgress], None] = lambda _: None,
) -> PlannedEnvironment | NewEnvironment:
    """Install a vLLM that works on this machine, in an environment of its own. Later starts use it.

    Args:
        version: the version of vLLM, "0.17.0" or "0.17"; None for the newest that works on this machine.
        dry_run: only say what would be installed, why, how much that is, and where.
        cpu: install the build for the CPU, although there is a GPU.
        pre: a pre-release may be chosen.
        into: the folder for the environment; None for that of vllm_magic.
        wheels: a folder with all packages, for a machine without internet; None for the package index.
        report: called with the progress at least once a second.

    Raises:
        NoVllmFits: no vLLM fits this machine; the message says why, and what to do.
        InstallFailed: vLLM could not be installed, or does not work here.
        VllmMagicError: a folder cannot be used.

    Example::

        vllm_magic.install(dry_run=True)
        vllm_magic.install("0.17.0")
    """
    probe = Probe()
    try:
        planned = plan(
            arguments.text("version", version, 'a version, as text: "0.17.0"') if version else None,
            probe,
            cpu=arguments.yes_or_no("cpu", cpu),
            pre=arguments.yes_or_no("pre", pre),
            into=arguments.path("into", into) if into else None,
        )
    finally:
        probe.close()
    if arguments.yes_or_no("dry_run", dry_run):
        return planned
    folder = Path(arguments.path("wheels", wheels)) if wheels else None
    return make(planned, wheels=folder, report=report)
