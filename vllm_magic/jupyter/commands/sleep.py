"""``%vllm sleep`` and ``wake``: vLLM's sleep mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import CommandDeclaration, CommandOption
from vllm_magic.jupyter.commands.base import SERVER, ServerName, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.context import Context


@dataclass(frozen=True)
class SleepArguments:
    """``level`` 1 keeps the weights in the machine's memory, 2 throws them away."""

    name: str | None = None
    level: int = 1


class SleepCommand(SubCommand[SleepArguments]):
    """``%vllm sleep``."""

    declaration = CommandDeclaration(
        name="sleep",
        about="give the VRAM of a server back but keep its processes; it was started with --enable-sleep-mode",
        details="This is vLLM's sleep mode, on GPUs only. The driver is asked whether the memory came back.",
        arguments=(SERVER,),
        options=(
            CommandOption(
                "--level",
                "throw the weights away (else they go to the machine's memory)",
                "2",
                type=int,
                choices=(1, 2),
                default=1,
            ),
        ),
        examples=("%vllm sleep", "%vllm sleep small --level 2"),
    )

    def parse(self, words: Sequence[str]) -> SleepArguments:
        """The server and the level."""
        return SleepArguments(**self.read(words))

    def run(self, context: Context, arguments: SleepArguments) -> Any:
        """Put it to sleep."""
        return context.manager.get(arguments.name).sleep(arguments.level)


class WakeCommand(SubCommand[ServerName]):
    """``%vllm wake``."""

    declaration = CommandDeclaration(
        name="wake",
        about="wake a server up",
        arguments=(SERVER,),
        examples=("%vllm wake",),
    )

    def parse(self, words: Sequence[str]) -> ServerName:
        """The name, or None."""
        return ServerName(**self.read(words))

    def run(self, context: Context, arguments: ServerName) -> Any:
        """Wake it up."""
        return context.manager.get(arguments.name).wake()


COMMANDS: tuple[SubCommand[Any], ...] = (SleepCommand(), WakeCommand())
