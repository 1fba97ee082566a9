"""``%vllm panel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import CommandDeclaration
from vllm_magic.jupyter.commands.base import NoArguments, ServerName, SubCommand
from vllm_magic.jupyter.commands.inspect import StatusCommand

if TYPE_CHECKING:
    from vllm_magic.jupyter.commands.context import Context


class PanelCommand(SubCommand[NoArguments]):
    """``%vllm panel``."""

    arguments_type = NoArguments
    declaration = CommandDeclaration(
        name="panel",
        about="a panel that shows and controls the servers, also while cells run",
        details="In a terminal it shows the table of %vllm.",
        link="#the-panel",
        examples=("%vllm panel",),
    )

    def run(self, context: Context, arguments: NoArguments) -> Any:  # noqa: ARG002
        """Return the panel of this kernel, or the table of its servers in a terminal."""
        if not context.notebook:
            return StatusCommand().run(context, ServerName())
        from vllm_magic.jupyter.panel.singleton import panel

        return panel()


COMMANDS: tuple[SubCommand[Any], ...] = (PanelCommand(),)
