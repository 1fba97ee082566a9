"""``%vllm sleep`` and ``wake``: vLLM's sleep mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import CommandDeclaration, CommandOption
from vllm_magic.commands.parser import integer
from vllm_magic.jupyter.commands.base import SERVER, ServerName, SubCommand

if TYPE_CHECKING:
    from vllm_magic.jupyter.commands.context import Context


@dataclass(frozen=True)
class SleepArguments:
    """The arguments of ``%vllm sleep``.

    Attributes:
        name: the name of the server; None for the only server.
        level: 1 to move the weights to the memory of the machine, 2 to discard them.
    """

    name: str | None = None
    level: int = 1


class SleepCommand(SubCommand[SleepArguments]):
    """``%vllm sleep``."""

    arguments_type = SleepArguments
    declaration = CommandDeclaration(
        name="sleep",
        about="free the VRAM of a server but keep its processes; it must have been started with --enable-sleep-mode",
        details="This is vLLM's sleep mode, which needs a GPU. The driver is asked whether the memory came back.",
        arguments=(SERVER,),
        options=(
            CommandOption(
                "--level",
                "discard the weights (default: move them to the machine's memory)",
                "2",
                type=integer,
                choices=(1, 2),
                default=1,
            ),
        ),
        examples=("%vllm sleep", "%vllm sleep small --level 2"),
    )

    def run(self, context: Context, arguments: SleepArguments) -> Any:
        """Put the server to sleep."""
        return context.manager.get(arguments.name).sleep(arguments.level)


class WakeCommand(SubCommand[ServerName]):
    """``%vllm wake``."""

    arguments_type = ServerName
    declaration = CommandDeclaration(
        name="wake",
        about="wake up a server that sleeps",
        arguments=(SERVER,),
        examples=("%vllm wake",),
    )

    def run(self, context: Context, arguments: ServerName) -> Any:
        """Wake the server up."""
        return context.manager.get(arguments.name).wake()


COMMANDS: tuple[SubCommand[Any], ...] = (SleepCommand(), WakeCommand())
