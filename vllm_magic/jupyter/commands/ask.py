"""``%%vllm``: send a cell to a model."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import CommandDeclaration, CommandOption
from vllm_magic.commands.front_end import CELL
from vllm_magic.commands.parser import number, positive_integer
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.base import SERVER, SubCommand

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_magic.jupyter.commands.context import Context


@dataclass(frozen=True)
class AskArguments:
    """The arguments of ``%%vllm``.

    Attributes:
        name: the name of the server; None for the only server.
        system: the system message; None for none.
        temperature: the sampling temperature; None for the model's default.
        max_tokens: the largest number of tokens of the answer; None for no limit but the context.
        variable: the name of the variable to which the answer is assigned; None for none.
        schema: the JSON schema as the user wrote it; None for none.
        history: whether the cell belongs to a conversation, which may be a new one.
        new: whether a new conversation begins.

    Raises:
        InvalidOption: ``variable`` is not a valid name.
    """

    name: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    variable: str | None = None
    schema: str | None = None
    history: bool = False
    new: bool = False

    def __post_init__(self) -> None:
        """Check the name of the variable."""
        variable = self.variable
        if variable is not None and (not variable.isidentifier() or keyword.iskeyword(variable)):
            raise InvalidOption(f"--as {variable}: this is not a valid name of a variable. Choose another.")


class AskCommand(SubCommand[AskArguments]):
    """``%%vllm``.

    Args:
        commands: the names of all commands. They are refused as names of servers: the user meant the command.
    """

    declaration = CommandDeclaration(
        name=CELL,
        about="send the cell below to a model, and show the answer as Markdown while it comes",
        details=(
            "Token counts and tokens/s stand below the answer. HTML in the answer stays text, and no image is loaded. "
            "Interrupt ends the request, on the server too, and keeps the text so far. The cell is sent unchanged: "
            "{name} is not replaced."
        ),
        arguments=(SERVER,),
        options=(
            CommandOption("--system", "the system message", "TEXT"),
            CommandOption(
                "--temperature", "0 for the most likely tokens (default: the model's own)", "T", type=number
            ),
            CommandOption(
                "--max-tokens",
                "the longest answer in tokens (default: as long as the context allows)",
                "N",
                type=positive_integer,
            ),
            CommandOption("--as", "assign the answer to a variable", "VARIABLE", dest="variable"),
            CommandOption(
                "--json",
                "have the answer match a JSON schema: JSON in single quotes, or a variable with a dict or a pydantic "
                "model class; --as then assigns the parsed value",
                "SCHEMA",
                dest="schema",
            ),
            CommandOption("--history", "continue the conversation with this server"),
            CommandOption("--new", "begin a new conversation"),
        ),
        examples=(
            '%%vllm --system "You are a sailor." --max-tokens 200\nWhy is the sea salty?',
            "%%vllm small --as reason --history\nAnd why is it blue?",
        ),
    )

    def __init__(self, commands: Collection[str]) -> None:
        self._commands = commands

    def parse(self, args: Sequence[str]) -> AskArguments:
        """Parse the name of the server and the options."""
        values = vars(self.declaration.parse(args))
        arguments = AskArguments(**{**values, "history": values["history"] or values["new"]})
        if arguments.name in self._commands:
            raise InvalidOption(
                f"%%vllm sends the cell to a server. To run a command, write %vllm {arguments.name} in a line of its own."
            )
        return arguments

    def run(self, context: Context, arguments: AskArguments) -> None:
        """Send the cell, and show the answer while it comes."""
        server = context.manager.get(arguments.name)
        cell, variables = context.cell.strip("\n"), context.shell.user_ns
        context.chat_cells.run(server, cell, arguments, variables, context.display_mode)
