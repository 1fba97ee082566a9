"""``%vllm gpu``, ``cluster``, ``doctor`` and ``reap``: the machine, the cluster, and what was left on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.commands import shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands.base import NoArguments, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.view import View


class GpuCommand(SubCommand[NoArguments]):
    """``%vllm gpu``."""

    declaration = shared.GPU

    def parse(self, words: Sequence[str]) -> NoArguments:
        """None."""
        return NoArguments(**self.read(words))

    def run(self, context: Context, arguments: NoArguments) -> View:  # noqa: ARG002
        """The holders of each GPU."""
        from vllm_magic.doctor import gpus, survey

        return gpus.view(*survey.holders(context.manager.probe))


@dataclass(frozen=True)
class ClusterArguments:
    """``address`` of the dashboard; None for the one of ``$RAY_ADDRESS``."""

    address: str | None = None


class ClusterCommand(SubCommand[ClusterArguments]):
    """``%vllm cluster``."""

    declaration = CommandDeclaration(
        name="cluster",
        about="the nodes of a Ray cluster, and what runs there or waits for room",
        arguments=(Argument("ADDRESS", "http://HEAD:8265 (else $RAY_ADDRESS)"),),
        examples=("%vllm cluster http://head:8265",),
        link="#on-a-ray-cluster",
    )

    def parse(self, words: Sequence[str]) -> ClusterArguments:
        """The address, or None."""
        return ClusterArguments(**self.read(words))

    def run(self, context: Context, arguments: ClusterArguments) -> View:
        """The nodes and jobs of the cluster."""
        from vllm_magic.cluster.survey import survey, view

        jobs = {one.job for one in context.manager.servers().values()}
        return view(survey(arguments.address or "auto"), jobs)


class DoctorCommand(SubCommand[NoArguments]):
    """``%vllm doctor``."""

    declaration = shared.DOCTOR

    def parse(self, words: Sequence[str]) -> NoArguments:
        """None."""
        return NoArguments(**self.read(words))

    def run(self, context: Context, arguments: NoArguments) -> View:  # noqa: ARG002
        """The report."""
        from vllm_magic.doctor.survey import survey
        from vllm_magic.jupyter.display import views

        return views.doctor(survey(context.manager.probe, context.executable))


@dataclass(frozen=True)
class ReapArguments:
    """``pids`` of processes that nobody owns, () for what dead kernels left; ``yes`` to end and not only show them."""

    pids: tuple[int, ...] = ()
    yes: bool = False


class ReapCommand(SubCommand[ReapArguments]):
    """``%vllm reap``."""

    declaration = shared.REAP

    def parse(self, words: Sequence[str]) -> ReapArguments:
        """The processes, each once."""
        found = self.read(words)
        return ReapArguments(tuple(dict.fromkeys(found["pid"])), found["yes"])

    def run(self, context: Context, arguments: ReapArguments) -> View:
        """Release, show or end it."""
        from vllm_magic.doctor import reap
        from vllm_magic.jupyter.display import views
        from vllm_magic.recovery.sweep import sweep_all

        probe = context.manager.probe
        try:
            if not arguments.pids:
                return views.swept(sweep_all(probe))
            candidates = reap.judge_all(arguments.pids)
        except OSError as error:  # the state folder is not ours alone
            raise VllmMagicError(str(error)) from None
        shown = reap.view(candidates, probe.snapshot())
        reaped = [reap.reap(one, probe) for one in candidates] if arguments.yes else []
        return views.reaped(shown, reaped, arguments.pids)


COMMANDS: tuple[SubCommand[Any], ...] = (GpuCommand(), ClusterCommand(), DoctorCommand(), ReapCommand())
