"""``%vllm gpu``, ``cluster``, ``doctor``, ``reap``, ``install`` and ``use``: the commands for the machine and a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.commands import shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands.base import NoArguments, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.doctor.environments import ChosenEnvironment, EnvironmentList
    from vllm_magic.installation.progress import InstallProgress
    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.view import View


class GpuCommand(SubCommand[NoArguments]):
    """``%vllm gpu``."""

    arguments_type = NoArguments
    declaration = shared.GPU

    def run(self, context: Context, arguments: NoArguments) -> View:  # noqa: ARG002
        """Return the table of the GPUs and the holders of their memory."""
        from vllm_magic.doctor import gpus, survey

        return gpus.view(*survey.holders(context.manager.probe))


@dataclass(frozen=True)
class ClusterArguments:
    """``address``: the URL of the cluster's dashboard; None for that of ``$RAY_ADDRESS``."""

    address: str | None = None


class ClusterCommand(SubCommand[ClusterArguments]):
    """``%vllm cluster``."""

    arguments_type = ClusterArguments
    declaration = CommandDeclaration(
        name="cluster",
        about="the nodes of a Ray cluster, and the jobs that run or wait there",
        arguments=(Argument("ADDRESS", "http://HEAD:8265 (default: $RAY_ADDRESS)"),),
        examples=("%vllm cluster http://head:8265",),
        link="#on-a-ray-cluster",
    )

    def run(self, context: Context, arguments: ClusterArguments) -> View:
        """Return the table of the nodes and jobs."""
        from vllm_magic.cluster.survey import survey, view

        jobs = {server.job for server in context.manager.servers().values()}
        return view(survey(arguments.address or "auto"), jobs)


class DoctorCommand(SubCommand[NoArguments]):
    """``%vllm doctor``."""

    arguments_type = NoArguments
    declaration = shared.DOCTOR

    def run(self, context: Context, arguments: NoArguments) -> View:  # noqa: ARG002
        """Return the report."""
        from vllm_magic.doctor.survey import survey
        from vllm_magic.jupyter.display import views

        return views.doctor(survey(context.manager.probe, context.executable))


@dataclass(frozen=True)
class ReapArguments:
    """The arguments of ``%vllm reap``.

    Attributes:
        pids: the processes to show or end; () to release the servers that dead kernels left behind.
        yes: whether the processes are ended; otherwise they are only shown.
    """

    pids: tuple[int, ...] = ()
    yes: bool = False


class ReapCommand(SubCommand[ReapArguments]):
    """``%vllm reap``."""

    declaration = shared.REAP

    def parse(self, args: Sequence[str]) -> ReapArguments:
        """Parse the pids, each once, and the option."""
        values = vars(self.declaration.parse(args))
        return ReapArguments(tuple(dict.fromkeys(values["pid"])), values["yes"])

    def run(self, context: Context, arguments: ReapArguments) -> View:
        """Release servers, or show or end processes."""
        from vllm_magic.doctor import reap
        from vllm_magic.jupyter.display import views
        from vllm_magic.recovery.sweep import sweep_all

        probe = context.manager.probe
        try:
            if not arguments.pids:
                return views.swept(sweep_all(probe))
            candidates = reap.find_candidates(arguments.pids)
        except OSError as error:  # the state folder is not private to this user, or cannot be read
            raise VllmMagicError(str(error)) from None
        shown = reap.view(candidates, probe.snapshot())
        reaped = [reap.reap(candidate, probe) for candidate in candidates] if arguments.yes else []
        return views.reaped(shown, reaped, arguments.pids)


@dataclass(frozen=True)
class InstallArguments:
    """The arguments of ``%vllm install``.

    Attributes:
        version: the version of vLLM; None for the newest that works on this machine.
        dry_run: whether the plan is only shown.
        cpu: whether the build for the CPU is wanted although there is a GPU.
        pre: whether a pre-release may be chosen.
        into: the folder for the environment; None for the main folder.
        wheels: a folder with all packages; None for the package index.
        download: a folder into which all packages for another machine are downloaded; None to download none.
        machine: that machine; None without ``download``.
        list: whether the environments are listed.
        remove: the version whose environment is removed; None to remove none.
    """

    version: str | None = None
    dry_run: bool = False
    cpu: bool = False
    pre: bool = False
    into: str | None = None
    wheels: str | None = None
    download: str | None = None
    machine: str | None = None
    list: bool = False
    remove: str | None = None


class InstallCommand(SubCommand[InstallArguments]):
    """``%vllm install``."""

    arguments_type = InstallArguments
    declaration = shared.INSTALL

    def run(self, context: Context, arguments: InstallArguments) -> View:
        """Install, list or remove an environment, show what would be installed, or download packages for another machine."""
        from vllm_magic.doctor import environments

        if arguments.list:
            return environments.listed(context.executable).view()
        if arguments.remove is not None:
            return environments.remove(arguments.remove, context.executable).view()
        return self._install(context, arguments)

    def _install(self, context: Context, arguments: InstallArguments) -> View:
        from vllm_magic.doctor import new_environment
        from vllm_magic.jupyter.display.progress import new_line
        from vllm_magic.linux import home

        line = new_line(context.display_mode)

        def report(progress: InstallProgress) -> None:
            share = min(1.0, progress.done / progress.total) if progress.total else None
            line.show(progress.text, share)

        kinds = {"cpu": arguments.cpu, "pre": arguments.pre}
        try:
            if arguments.download is not None or arguments.machine is not None:
                return new_environment.download(
                    arguments.version, arguments.machine, arguments.download, report=report, **kinds
                ).view()
            planned = new_environment.plan(
                arguments.version, context.manager.probe, into=arguments.into, **kinds
            )
            if arguments.dry_run:
                return planned.view()
            wheels = Path(home.expanded(arguments.wheels)) if arguments.wheels else None
            installed = new_environment.make(
                planned, wheels=wheels, wanted=context.executable, report=report
            ).view()
        except KeyboardInterrupt:
            raise VllmMagicError(
                "Interrupted: nothing of the installation is left but complete downloads, which the next one uses."
            ) from None
        finally:
            line.finish("")
        return replace(installed, lines=(*installed.lines, *planned.plan.reasons))


@dataclass(frozen=True)
class UseArguments:
    """``version``: the version of vLLM, or the name of its environment; None to show the list."""

    version: str | None = None


class UseCommand(SubCommand[UseArguments]):
    """``%vllm use``."""

    arguments_type = UseArguments
    declaration = shared.USE

    def run(self, context: Context, arguments: UseArguments) -> EnvironmentList | ChosenEnvironment:
        """Choose the vLLM, or return the list."""
        from vllm_magic.doctor import environments

        if arguments.version is None:
            return environments.listed(context.executable)
        return environments.use(arguments.version, context.executable)


COMMANDS: tuple[SubCommand[Any], ...] = (
    GpuCommand(),
    ClusterCommand(),
    DoctorCommand(),
    ReapCommand(),
    InstallCommand(),
    UseCommand(),
)
