"""``%vllm status``, ``logs``, ``fit``, ``metrics`` and ``plot``: the commands that show servers and change nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_magic.commands import shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration, ValueKind
from vllm_magic.commands.parser import server_name
from vllm_magic.jupyter.commands import named_server, start_arguments
from vllm_magic.jupyter.commands.base import KNOWN_SERVER, SERVER, ServerName, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.jupyter.commands.start_arguments import StartArguments
    from vllm_magic.provisioning.standby_pool import StandbyStatus
    from vllm_magic.view import View


class StatusCommand(SubCommand[ServerName]):
    """``%vllm status``, and ``%vllm`` alone."""

    arguments_type = ServerName
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

    def run(self, context: Context, arguments: ServerName) -> View:
        """Return the table of the servers, with notes below it."""
        from vllm_magic import ledger
        from vllm_magic.jupyter.display import views

        manager, name = context.manager, arguments.name
        chosen = manager.servers().values() if name is None else [manager.get(name)]
        servers = [server.status for server in chosen]
        notes = [
            f"{status.name}: its Ray cluster does not answer." for status in servers if not status.reachable
        ]
        notes += [f"{status.name}: {status.caveat}." for status in servers if status.caveat]
        if not name:
            notes += [*manager.idle_releases(), *manager.waiting(), *_spare_note(manager.spares.status())]
        if servers and (silent := ledger.silent_disk()):
            notes.append(f"{silent}: the servers run, and can be stopped, but their logs may lack lines.")
        elif servers and (full := ledger.full_disk()):
            notes.append(f"{full}: the logs of the servers are not written any more. Free disk space there.")
        return views.status(servers, manager.recent_gpus() if servers else None, notes)


def _spare_note(spare: StandbyStatus) -> list[str]:
    from vllm_magic.sizes import gib

    return [f"A spare waits for the next start, in {gib(spare.memory)} of memory."] if spare.warm else []


@dataclass(frozen=True)
class LogsArguments:
    """The name of the server, None for the only one, and the number of lines."""

    name: str | None = None
    count: int = 50


class LogsCommand(SubCommand[LogsArguments]):
    """``%vllm logs``."""

    arguments_type = LogsArguments
    declaration = replace(
        shared.LOGS, arguments=(KNOWN_SERVER,), examples=("%vllm logs", "%vllm logs small -n 200")
    )

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
            "Nothing is started. The estimate shows the weights, the KV cache, the number of requests and the longest "
            "context, and says what would help. A start that will probably fail prints a warning."
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
        named = named_server.find(context.manager, arguments, self.declaration.name)
        return context.manager.fit(named or request.spec)


class MetricsCommand(SubCommand[ServerName]):
    """``%vllm metrics``."""

    arguments_type = ServerName
    declaration = CommandDeclaration(
        name="metrics",
        about="the counters of a server: requests, tokens per second, KV cache, times to the first token and between tokens",
        details="The server reports them itself.",
        arguments=(SERVER,),
        examples=("%vllm metrics",),
    )

    def run(self, context: Context, arguments: ServerName) -> View:
        """Return the present values of the counters."""
        from vllm_magic.jupyter.display import views

        server = context.manager.get(arguments.name)
        return views.metrics(server.name, server.metrics())


class PlotCommand(SubCommand[ServerName]):
    """``%vllm plot``."""

    arguments_type = ServerName
    declaration = CommandDeclaration(
        name="plot",
        about="the life of a server as a chart: VRAM, tokens per second, requests; also after its end",
        details="The times at which it was started, ready, stopped and released are marked. `server.plot().svg` is the chart as a file.",
        arguments=(KNOWN_SERVER,),
        examples=("%vllm plot",),
    )

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
