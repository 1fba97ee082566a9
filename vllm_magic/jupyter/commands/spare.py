"""``%vllm spare``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import CommandAction, CommandDeclaration
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands import start_arguments
from vllm_magic.jupyter.commands.base import SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.context import Context


class SpareAction(str, Enum):
    """An action on the spare."""

    STATUS = "status"
    ON = "on"
    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True)
class SpareArguments:
    """The action on the spare."""

    action: SpareAction


class SpareCommand(SubCommand[SpareArguments]):
    """``%vllm spare``."""

    declaration = CommandDeclaration(
        name="spare",
        about="a process that has already imported vLLM, so that the next start takes far less time",
        actions=(
            CommandAction(
                SpareAction.STATUS.value,
                "show the spare: a process that has already imported vLLM for the next start",
            ),
            CommandAction(SpareAction.ON.value, "keep a spare from now on"),
            CommandAction(SpareAction.OFF.value, "end the spare, and make no other"),
            CommandAction(
                SpareAction.AUTO.value,
                "make a spare once a server is ready and enough memory is free (the default)",
            ),
        ),
        default_action=SpareAction.STATUS.value,
        examples=("%vllm spare", "%vllm spare on"),
        link="#starting-faster",
    )

    def parse(self, args: Sequence[str]) -> SpareArguments:
        """Parse the action; the default is ``status``."""
        return SpareArguments(SpareAction(self.declaration.parse(args).action))

    def run(self, context: Context, arguments: SpareArguments) -> Any:
        """Set the mode if the action says so, and return the view of the spare."""
        from vllm_magic.jupyter.display import views

        if arguments.action is not SpareAction.STATUS:
            context.configure_spare(arguments.action.value)
        spares = context.manager.spares
        if arguments.action is SpareAction.ON:
            any_model = start_arguments.parse(["any"], context.settings).spec  # a spare can serve each model
            context.manager.expect_another(any_model)
        elif arguments.action is SpareAction.OFF and not spares.wait_gone():
            raise VllmMagicError(
                "The spare is switched off, but SIGKILL does not end it. %vllm doctor tells more."
            )
        return views.spare(spares.status())


COMMANDS: tuple[SubCommand[Any], ...] = (SpareCommand(),)
