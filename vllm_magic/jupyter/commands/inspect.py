"""``%vllm status``, ``logs``, ``fit``, ``metrics`` and ``plot``: the commands that show servers and change nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_magic.commands import shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration, ValueKind
from vllm_magic.commands.parser import server_name
from vllm_magic.jupyter.commands import start_arguments
from vllm_magic.jupyter.commands.base import KNOWN_SERVER, SERVER, ServerName, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.jupyter.commands.start_arguments import StartArguments
    from vllm_magic.view import View


class StatusCommand(SubCommand[ServerName]):
    """``%vllm status``, and ``%vllm`` alone."""

    declaration = CommandDeclaration(
        name="status",
        about="show one server (all of them: %vllm)",
        arguments=(
            Argument(
                "NAME", "the server (default: all servers of this kernel)", ValueKind.SERVER, type=server_name
            ),
        ),
        examples=("%vllm", "%vllm status small"),
    )

    def parse(self, args: Sequence[str]) -> ServerName:
        """Parse the name of a server; None stands for all servers."""
        return ServerName(**self.read(args))

    def run(self, context: Context, arguments: ServerName) -> View:
        """Return the table of the servers, with lines about what else concerns them."""
        from vllm_magic import ledger
        from vllm_magic.jupyter.display import views

        manager, name = context.manager, arguments.name
        chosen = manager.servers().values() if name is None else [manager.get(name)]
        servers = [one.status for one in chosen]
        others = [f"{one.name}: its Ray cluster does not answer." for one in servers if not one.reachable]
        others += [f"{one.name}: {one.caveat}." for one in servers if one.caveat]
        if not name:
            others += [*manager.idle_releases(), *manager.waiting(), *_spare_text(context)]
        if servers and (full := ledger.full_disk()):
            others.append(f"{full}: the logs of the servers are not written any more. Free disk space there.")
        return views.status(servers, manager.recent_gpus() if servers else None, others)


def _spare_text(context: Context) -> list[str]:
    from vllm_magic.sizes import gib

    one = context.manager.spares.status()
    return [f"A spare waits for the next start, in {gib(one.memory)} of memory."] if one.warm else []


@dataclass(frozen=True)
class LogsArguments:
    """The server, None for the only one, and the number of lines."""

    name: str | None = None
    count: int = 50


class LogsCommand(SubCommand[LogsArguments]):
    """``%vllm logs``."""

    declaration = replace(
        shared.LOGS, arguments=(KNOWN_SERVER,), examples=("%vllm logs", "%vllm logs small -n 200")
    )

    def parse(self, args: Sequence[str]) -> LogsArguments:
        """Parse the name of the server and the number of lines."""
        return LogsArguments(**self.read(args))

    def run(self, context: Context, arguments: LogsArguments) -> View:
        """Return the last lines of the log."""
        from vllm_magic.jupyter.display import views

        server = context.manager.get_even_past(arguments.name)
        return views.lines(server.name, server.log(arguments.count), server.status.idle_release)


class FitCommand(SubCommand["StartArguments"]):
    """``%vllm fit``."""

    declaration = CommandDeclaration(
        name="fit",
        about="estimate whether a model fits into GPU memory, and what it needs; arguments as for start",
        details=(
            "Nothing is started. The estimate has weights, KV cache, number of requests and longest context, and says "
            "what would help. A start prints a warning by itself."
        ),
        arguments=(start_arguments.MODEL,),
        options=start_arguments.OPTIONS,
        flags_of="vllm serve",
        like="start",
        examples=("%vllm fit Qwen/Qwen3-32B -tp 2 --max-model-len 32768",),
        link="docs/fit.md",
    )

    def parse(self, args: Sequence[str]) -> StartArguments:
        """Separate the options of vllm_magic from the flags of vLLM."""
        return start_arguments.separate(args)

    def run(self, context: Context, arguments: StartArguments) -> Any:
        """Return the estimate."""
        request = start_arguments.request(arguments, context.settings, command=self.declaration.name)
        return context.manager.fit(request.spec)


class MetricsCommand(SubCommand[ServerName]):
    """``%vllm metrics``."""

    declaration = CommandDeclaration(
        name="metrics",
        about="the counters of a server: requests, tokens per second, KV cache, times to the first token and between tokens",
        details="The server reports them itself.",
        arguments=(SERVER,),
        examples=("%vllm metrics",),
    )

    def parse(self, args: Sequence[str]) -> ServerName:
        """Parse the name of a server; None stands for the only one."""
        return ServerName(**self.read(args))

    def run(self, context: Context, arguments: ServerName) -> View:
        """Return the present values of the counters."""
        from vllm_magic.jupyter.display import views

        server = context.manager.get(arguments.name)
        return views.metrics(server.name, server.metrics())


class PlotCommand(SubCommand[ServerName]):
    """``%vllm plot``."""

    declaration = CommandDeclaration(
        name="plot",
        about="the life of a server as a chart: VRAM, tokens per second, requests; also after its end",
        details="The times at which it was started, ready, stopped and released are marked. `server.plot().svg` is the chart as a file.",
        arguments=(KNOWN_SERVER,),
        examples=("%vllm plot",),
    )

    def parse(self, args: Sequence[str]) -> ServerName:
        """Parse the name of a server; None stands for the only one."""
        return ServerName(**self.read(args))

    def run(self, context: Context, arguments: ServerName) -> Any:
        """Return the chart."""
        return context.manager.get_even_past(arguments.name).plot()


COMMANDS: tuple[SubCommand[Any], ...] = (
    StatusCommand(),
    LogsCommand(),
    FitCommand(),
    MetricsCommand(),
    PlotCommand(),
)
