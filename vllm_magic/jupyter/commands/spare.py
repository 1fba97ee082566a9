"""``%vllm spare``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import Action, CommandDeclaration
from vllm_magic.jupyter.commands import start_arguments
from vllm_magic.jupyter.commands.base import SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.jupyter.commands.context import Context

ABOUT = "a process that has imported vLLM ahead of the next start, which takes far less time then"


class SpareAction(str, Enum):
    """What can be done about the spare."""

    STATUS = "status"
    ON = "on"
    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True)
class SpareArguments:
    """What to do."""

    action: SpareAction


class SpareCommand(SubCommand[SpareArguments]):
    """``%vllm spare``."""

    declaration = CommandDeclaration(
        name="spare",
        about=ABOUT,
        actions=(
            Action(SpareAction.STATUS.value, ABOUT),
            Action(SpareAction.ON.value, "have one from now on"),
            Action(SpareAction.OFF.value, "end it, and have none"),
            Action(
                SpareAction.AUTO.value,
                "have one once a server is ready, where memory is plenty; as it is at first",
            ),
        ),
        default_action=SpareAction.STATUS.value,
        examples=("%vllm spare", "%vllm spare on"),
        link="#starting-faster",
    )

    def parse(self, words: Sequence[str]) -> SpareArguments:
        """The action; without a word it is ``status``."""
        return SpareArguments(SpareAction(self.read(words)["action"]))

    def run(self, context: Context, arguments: SpareArguments) -> Any:
        """Set the mode, and show the spare."""
        from vllm_magic.jupyter.display import views

        if arguments.action is not SpareAction.STATUS:
            context.configure_spare(arguments.action.value)
        spares = context.manager.spares
        if arguments.action is SpareAction.ON:
            context.manager.expect_another(start_arguments.start(["any"], context.settings).spec)
        elif arguments.action is SpareAction.OFF:
            spares.wait_gone()
        return views.spare(spares.status())


COMMANDS: tuple[SubCommand[Any], ...] = (SpareCommand(),)
