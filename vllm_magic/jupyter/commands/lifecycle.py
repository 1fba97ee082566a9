"""``%vllm start``, ``attach``, ``stop``, ``restart`` and ``switch``: the commands that start and stop servers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_magic.commands import shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration, CommandOption, ValueKind
from vllm_magic.commands.parser import seconds, server_name
from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.jupyter.commands import start_arguments
from vllm_magic.jupyter.commands.base import KNOWN_SERVER, SERVER, ServerName, SubCommand
from vllm_magic.jupyter.commands.start_arguments import StartArguments, StartRequest
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.release.result import Release

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.server.server import Server

WARNING_LIMIT = 0.2  # seconds that `start --no-wait` waits for a warning


class StartCommand(SubCommand[StartArguments]):
    """``%vllm start``."""

    declaration = CommandDeclaration(
        name="start",
        about="serve a model; flags of `vllm serve` go to vLLM unchanged",
        details=(
            "`{name}` and `$name` insert variables of the notebook. The same command again returns the server that "
            "already runs. vLLM's file of options (--config FILE) is respected: its host and port are used, and a key in "
            "it is refused."
        ),
        arguments=(start_arguments.MODEL,),
        options=start_arguments.OPTIONS,
        flags_of="vllm serve",
        examples=(
            "%vllm start Qwen/Qwen3-0.6B --max-model-len 4096",
            "server = %vllm start {model} --name small --gpus auto --ttl 30m",
            "%vllm start Qwen/Qwen3-32B -tp 2 --no-wait",
        ),
    )

    def parse(self, args: Sequence[str]) -> StartArguments:
        """Separate the options of vllm_magic from the flags of vLLM."""
        return start_arguments.separate(args)

    def run(self, context: Context, arguments: StartArguments) -> Server:
        """Start the server, or return the same one that already runs."""
        return _start(context, start_arguments.request(arguments, context.settings))


def _start(context: Context, request: StartRequest) -> Server:
    from vllm_magic.jupyter.display.progress import ProgressLine, ready

    line = ProgressLine(notebook=context.notebook)
    early_warning = context.manager.warn_early(request.spec)

    def report(server: Server) -> None:
        if warning := early_warning.warning():
            line.finish("")
            print(warning)  # noqa: T201 - in the cell's thread
        line.report(server)

    try:
        start = context.manager.start(request.spec, wait=request.wait, timeout=request.timeout, report=report)
    except BaseException:
        line.finish("")
        raise
    line.finish(ready(start.server) if request.wait and not start.reused else "")
    if start.reused:
        print(f"{start.server.name} runs already, with the same options.")  # noqa: T201 - in the cell's thread
    elif not request.wait and (warning := early_warning.warning(WARNING_LIMIT)):
        print(warning)  # noqa: T201
    if request.wait and not start.reused and start.server.caveat:
        print(f"{start.server.name}: {start.server.caveat}.")  # noqa: T201
    if start.server.status.exposed and not start.reused:
        print(  # noqa: T201
            f"Other machines can reach {start.server.name}. Its key protects /v1 only: vLLM leaves /invocations, "
            "/tokenize and /metrics open."
        )
    return start.server


class AttachCommand(SubCommand[ServerName]):
    """``%vllm attach``."""

    declaration = CommandDeclaration(
        name="attach",
        about="take over a server that was kept (--keep) after its kernel had ended",
        details="The server keeps its URL and its key.",
        arguments=(
            Argument(
                "NAME",
                "the server that was kept; may be left out if there is only one",
                ValueKind.KEPT_SERVER,
                type=server_name,
            ),
        ),
        examples=("server = %vllm attach Qwen3-0.6B",),
    )

    def parse(self, args: Sequence[str]) -> ServerName:
        """Parse the name of a server; None stands for the only one."""
        return ServerName(**self.read(args))

    def run(self, context: Context, arguments: ServerName) -> Server:
        """Attach the server."""
        from vllm_magic.jupyter.display.progress import ProgressLine

        line = ProgressLine(notebook=context.notebook)
        before = context.manager.servers()
        try:
            return context.manager.attach(arguments.name, report=line.report)
        except KeyboardInterrupt:
            attached = [
                name for name, server in context.manager.servers().items() if server is not before.get(name)
            ]
            if not attached:
                raise
            raise VllmMagicError(
                f"Interrupted: {attached[0]} is attached, and its start continues. %vllm shows the progress."
            ) from None
        finally:
            line.finish("")


@dataclass(frozen=True)
class StopArguments:
    """The arguments of ``%vllm stop``.

    Attributes:
        name: the name of the server; None for the only one.
        all: whether all servers are stopped.
        grace: the seconds from SIGTERM to SIGKILL; None for the configured ones.
        drain: the longest time, in seconds, to wait for requests to finish.

    Raises:
        InvalidOption: a server is named, and ``all`` is set too.
    """

    name: str | None = None
    all: bool = False
    grace: float | None = None
    drain: float = 0.0

    def __post_init__(self) -> None:
        """Check that the arguments do not contradict each other."""
        if self.all and self.name:
            raise InvalidOption(f"Stop {self.name}, or --all? Leave one of them out.")


class StopCommand(SubCommand[StopArguments]):
    """``%vllm stop``."""

    declaration = replace(
        shared.STOP,
        arguments=(SERVER,),
        options=(
            CommandOption("--all", "stop every server of this kernel"),
            CommandOption(
                "--drain",
                "first wait up to this time for requests to finish",
                "TIME",
                type=seconds,
                default=0.0,
            ),
            *shared.STOP.options,
        ),
        examples=("%vllm stop", "%vllm stop --all --drain 30s", "release = %vllm stop small"),
    )

    def parse(self, args: Sequence[str]) -> StopArguments:
        """Parse the name of a server and the options."""
        return StopArguments(**self.read(args))

    def run(self, context: Context, arguments: StopArguments) -> Any:
        """Stop one server or all, and return the releases."""
        from vllm_magic.jupyter.display import views

        grace = context.grace if arguments.grace is None else arguments.grace
        if arguments.all:
            with _interruptible(context.manager.servers().values()):
                return views.releases(context.manager.stop_all(grace=grace, drain=arguments.drain))
        server = context.manager.get(arguments.name)
        with _interruptible([server]):
            return context.manager.stop(server.name, grace=grace, drain=arguments.drain)


class RestartCommand(SubCommand[ServerName]):
    """``%vllm restart``."""

    declaration = CommandDeclaration(
        name="restart",
        about="stop a server and start it again",
        details="A server that has ended is only started.",
        arguments=(KNOWN_SERVER,),
        examples=("%vllm restart",),
    )

    def parse(self, args: Sequence[str]) -> ServerName:
        """Parse the name of a server; None stands for the only one."""
        return ServerName(**self.read(args))

    def run(self, context: Context, arguments: ServerName) -> Server:
        """Stop the server, and start it again with the same options."""
        server = context.manager.get_even_past(arguments.name)
        if not server.state.over:
            context.manager.expect(server.spec)
            with _interruptible([server]):
                release = context.manager.stop(server.name, grace=context.grace)
            if release.doubt:
                print(release.text + release.in_brackets)  # noqa: T201 - in the cell's thread
        return _start(context, StartRequest(server.spec, wait=True, timeout=None))


class SwitchCommand(SubCommand[StartArguments]):
    """``%vllm switch``."""

    declaration = CommandDeclaration(
        name="switch",
        about="start a server or wake it up, and first put the others to sleep or stop them; arguments as for start",
        arguments=(start_arguments.MODEL,),
        options=tuple(one for one in start_arguments.OPTIONS if one is not start_arguments.NO_WAIT),
        flags_of="vllm serve",
        like="start",
        examples=("%vllm switch Qwen/Qwen3-0.6B --enable-sleep-mode",),
    )

    def parse(self, args: Sequence[str]) -> StartArguments:
        """Separate the options of vllm_magic from the flags of vLLM."""
        return start_arguments.separate(args)

    def run(self, context: Context, arguments: StartArguments) -> Server:
        """Start or wake the server, and print what became of the others."""
        from vllm_magic.jupyter.display.progress import ProgressLine
        from vllm_magic.manager import switching

        request = start_arguments.request(arguments, context.settings, command=self.declaration.name)
        if not request.wait:
            raise InvalidOption(
                "--no-wait: %vllm switch always waits until the server is ready. Leave this option out."
            )
        line = ProgressLine(notebook=context.notebook)
        try:
            switch = switching.switch(
                context.manager, request.spec, timeout=request.timeout, report=line.report
            )
        finally:
            line.finish("")
        for done in switch.done:
            print(done.text + (done.in_brackets if isinstance(done, Release) else ""))  # noqa: T201 - in the cell's thread
        return switch.server


@contextmanager
def _interruptible(servers: Collection[Server]) -> Iterator[None]:
    """Turn an interrupt of a stop into an error that says whose release continues.

    Args:
        servers: those that are stopped.

    Raises:
        KeyboardInterrupt: the interrupt came before any release was asked for, or after all were over.
        VllmMagicError: a release continues.
    """
    try:
        yield
    except KeyboardInterrupt:
        stopping = ", ".join(one.name for one in servers if one.state is ServerState.STOPPING)
        if not stopping:
            raise
        missed = ", ".join(
            one.name for one in servers if one.state is not ServerState.STOPPING and not one.state.over
        )
        raise VllmMagicError(
            f"Interrupted: the release of {stopping} continues in the background. "
            f"{f'Not stopped: {missed}. ' if missed else ''}%vllm shows the progress."
        ) from None


COMMANDS: tuple[SubCommand[Any], ...] = (
    StartCommand(),
    AttachCommand(),
    StopCommand(),
    RestartCommand(),
    SwitchCommand(),
)
