"""``%vllm start``, ``attach``, ``stop``, ``restart`` and ``switch``: the commands that start and stop servers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_magic.commands import shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration, CommandOption, ValueKind
from vllm_magic.commands.parser import seconds, server_name
from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.jupyter.commands import named_server, start_arguments
from vllm_magic.jupyter.commands.base import KNOWN_SERVER, SERVER, ServerName, SubCommand
from vllm_magic.jupyter.commands.start_arguments import StartArguments, StartRequest
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.release.result import Release

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.server.server import Server

WARNING_LIMIT = 0.2  # seconds for which `start --no-wait` waits for the early warning
EXPOSED = "Other machines can reach {name}. Its key protects /v1 only: vLLM leaves /invocations, /tokenize and /metrics open."


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
        """Start the server, or return the running server if it has the same options."""
        request = start_arguments.request(arguments, context.settings)
        if named := named_server.find(context.manager, arguments, self.declaration.name):
            request = replace(request, spec=named)
        return _start(context, request)


def _start(context: Context, request: StartRequest) -> Server:
    """Start a server, show the progress in the cell, and print what the user should know."""
    from vllm_magic.jupyter.display.progress import ProgressLine, ready

    line = ProgressLine(context.display_mode)
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
    server = start.server
    line.finish(ready(server) if request.wait and not start.reused else "")
    if start.reused:
        notes = [f"{server.name} runs already, with the same options."]
    else:
        caveat = f"{server.name}: {server.caveat}." if request.wait and server.caveat else ""
        warning = "" if request.wait else early_warning.warning(WARNING_LIMIT)
        notes = [caveat, warning, EXPOSED.format(name=server.name) if server.status.exposed else ""]
    for note in filter(None, notes):
        print(note)  # noqa: T201 - in the cell's thread
    return server


class AttachCommand(SubCommand[ServerName]):
    """``%vllm attach``."""

    arguments_type = ServerName
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

    def run(self, context: Context, arguments: ServerName) -> Server:
        """Attach the server."""
        from vllm_magic.jupyter.display.progress import ProgressLine

        line = ProgressLine(context.display_mode)
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
        grace: the seconds from SIGTERM to SIGKILL; None for the configured number.
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
            raise InvalidOption(f"Both {self.name} and --all are given. Leave one of them out.")


class StopCommand(SubCommand[StopArguments]):
    """``%vllm stop``."""

    arguments_type = StopArguments
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

    arguments_type = ServerName
    declaration = CommandDeclaration(
        name="restart",
        about="stop a server and start it again",
        details="A server that has ended is only started.",
        arguments=(KNOWN_SERVER,),
        examples=("%vllm restart",),
    )

    def run(self, context: Context, arguments: ServerName) -> Server:
        """Stop the server, and start it again with the same options."""
        server = context.manager.get_even_past(arguments.name)
        if not server.state.over:
            context.manager.check(server.spec)
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
        details=(
            "The name of a server of this kernel, in place of a model, means that server with its options. If the server "
            "does not start, the others come back, unless `--no-return` is given."
        ),
        arguments=(start_arguments.MODEL_OR_SERVER,),
        options=tuple(
            option for option in start_arguments.OPTIONS_OF_SWITCH if option is not start_arguments.NO_WAIT
        ),
        flags_of="vllm serve",
        like="start",
        examples=("%vllm switch Qwen/Qwen3-0.6B --enable-sleep-mode", "%vllm switch small"),
    )

    def parse(self, args: Sequence[str]) -> StartArguments:
        """Separate the options of vllm_magic from the flags of vLLM."""
        return start_arguments.separate(args, start_arguments.OPTIONS_OF_SWITCH)

    def run(self, context: Context, arguments: StartArguments) -> Server:
        """Start or wake the server, and print what happened to the others."""
        from vllm_magic.jupyter.display.progress import ProgressLine
        from vllm_magic.manager import switching

        request = start_arguments.request(
            arguments,
            context.settings,
            command=self.declaration.name,
            options=start_arguments.OPTIONS_OF_SWITCH,
        )
        if not request.wait:
            raise InvalidOption(
                "--no-wait: %vllm switch always waits until the server is ready. Leave this option out."
            )
        if named := named_server.find(context.manager, arguments, self.declaration.name, or_model=False):
            request = replace(request, spec=named)
        line = ProgressLine(context.display_mode)
        returning: set[str] = set()  # the servers that come back and that the user was told of

        def report(server: Server) -> None:
            if server.name not in {request.spec.name, *returning}:
                returning.add(server.name)
                line.finish("")
                print(f"{request.spec.name} did not become ready. {server.name} is started again:")  # noqa: T201 - in the cell's thread
            line.report(server)

        try:
            switch = switching.switch(
                context.manager,
                request.spec,
                timeout=request.timeout,
                restore=request.restore,
                report=report,
            )
        finally:
            line.finish("")
        for result in switch.done:
            print(result.text + (result.in_brackets if isinstance(result, Release) else ""))  # noqa: T201 - in the cell's thread
        return switch.server


@contextmanager
def _interruptible(servers: Collection[Server]) -> Iterator[None]:
    """Turn an interrupt of a stop into an error that names the servers whose release continues.

    Args:
        servers: the servers to stop.

    Raises:
        KeyboardInterrupt: the interrupt came before the first release began, or after the last one ended.
        VllmMagicError: a release continues.
    """
    try:
        yield
    except KeyboardInterrupt:
        states = {server.name: server.state for server in servers}
        stopping = [name for name, state in states.items() if state is ServerState.STOPPING]
        if not stopping:
            raise
        running = [name for name, state in states.items() if name not in stopping and not state.over]
        not_stopped = f"Not stopped: {', '.join(running)}. " if running else ""
        raise VllmMagicError(
            f"Interrupted: the release of {', '.join(stopping)} continues in the background. "
            f"{not_stopped}%vllm shows the progress."
        ) from None


COMMANDS: tuple[SubCommand[Any], ...] = (
    StartCommand(),
    AttachCommand(),
    StopCommand(),
    RestartCommand(),
    SwitchCommand(),
)
