"""``%vllm status``, ``logs``, ``fit``, ``metrics`` and ``plot``: looks at servers."""

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
        about="the same as %vllm, for one server",
        arguments=(
            Argument("NAME", "the server (else all of this kernel)", ValueKind.SERVER, type=server_name),
        ),
        examples=("%vllm", "%vllm status small"),
    )

    def parse(self, words: Sequence[str]) -> ServerName:
        """The name, or None for all."""
        return ServerName(**self.read(words))

    def run(self, context: Context, arguments: ServerName) -> View:
        """The servers of this kernel, and what else is to be known."""
        from vllm_magic import ledger
        from vllm_magic.jupyter.display import views

        manager, name = context.manager, arguments.name
        chosen = manager.servers().values() if name is None else [manager.get(name)]
        servers = [one.status for one in chosen]
        others = [f"{one.name}: its Ray cluster does not answer." for one in servers if not one.reachable]
        others += [f"{one.name}: {one.caveat}." for one in servers if one.caveat]
        if not name:
            others += [*manager.idle_releases(), *manager.waiting(), *_spare_line(context)]
        if servers and (full := ledger.full_disk()):
            others.append(f"{full}: what servers say is not in their logs. Make room there.")
        return views.status(servers, manager.recent_gpus() if servers else None, others)


def _spare_line(context: Context) -> list[str]:
    from vllm_magic.sizes import gib

    one = context.manager.spares.status()
    return [f"A spare waits for the next start, in {gib(one.memory)} of memory."] if one.warm else []


@dataclass(frozen=True)
class LogsArguments:
    """``count``: the number of lines."""

    name: str | None = None
    count: int = 50


class LogsCommand(SubCommand[LogsArguments]):
    """``%vllm logs``."""

    declaration = replace(
        shared.LOGS, arguments=(KNOWN_SERVER,), examples=("%vllm logs", "%vllm logs small -n 200")
    )

    def parse(self, words: Sequence[str]) -> LogsArguments:
        """The server and the number of lines."""
        return LogsArguments(**self.read(words))

    def run(self, context: Context, arguments: LogsArguments) -> View:
        """The lines."""
        from vllm_magic.jupyter.display import views

        server = context.manager.get_even_past(arguments.name)
        return views.lines(server.name, server.log(arguments.count), server.status.idle_release)


class FitCommand(SubCommand["StartArguments"]):
    """``%vllm fit``."""

    declaration = CommandDeclaration(
        name="fit",
        about="whether a model would fit, and what it needs: weights, KV cache; the words are those of start",
        details="Nothing is started. How many requests, the longest context and what would help are told as well. "
        "A start warns by itself.",
        arguments=(start_arguments.MODEL,),
        options=start_arguments.OPTIONS,
        flags_of="vllm serve",
        like="start",
        examples=("%vllm fit Qwen/Qwen3-32B -tp 2 --max-model-len 32768",),
        link="docs/fit.md",
    )

    def parse(self, words: Sequence[str]) -> StartArguments:
        """Our own options, and the rest."""
        return start_arguments.separate(words)

    def run(self, context: Context, arguments: StartArguments) -> Any:
        """The estimate."""
        request = start_arguments.request(arguments, context.settings, command=self.declaration.name)
        return context.manager.fit(request.spec)


class MetricsCommand(SubCommand[ServerName]):
    """``%vllm metrics``."""

    declaration = CommandDeclaration(
        name="metrics",
        about="requests, tokens a second, KV cache, times to the first token and between tokens of a server",
        details="They are vLLM's own counters.",
        arguments=(SERVER,),
        examples=("%vllm metrics",),
    )

    def parse(self, words: Sequence[str]) -> ServerName:
        """The name, or None."""
        return ServerName(**self.read(words))

    def run(self, context: Context, arguments: ServerName) -> View:
        """The counters as they are now."""
        from vllm_magic.jupyter.display import views

        server = context.manager.get(arguments.name)
        return views.metrics(server.name, server.metrics())


class PlotCommand(SubCommand[ServerName]):
    """``%vllm plot``."""

    declaration = CommandDeclaration(
        name="plot",
        about="the life of a server as a figure: VRAM, tokens a second, requests; also after its end",
        details="Its start, ready, stop and release are marked. `server.plot().svg` is the figure as a file.",
        arguments=(KNOWN_SERVER,),
        examples=("%vllm plot",),
    )

    def parse(self, words: Sequence[str]) -> ServerName:
        """The name, or None."""
        return ServerName(**self.read(words))

    def run(self, context: Context, arguments: ServerName) -> Any:
        """The figure."""
        return context.manager.get_even_past(arguments.name).plot()


COMMANDS: tuple[SubCommand[Any], ...] = (
    StatusCommand(),
    LogsCommand(),
    FitCommand(),
    MetricsCommand(),
    PlotCommand(),
)
