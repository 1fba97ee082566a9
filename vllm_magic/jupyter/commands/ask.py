"""``%%vllm``: a cell is said to a model."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import CommandDeclaration, CommandOption
from vllm_magic.commands.front_end import CELL
from vllm_magic.commands.parser import positive_integer
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.base import SERVER, SubCommand

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm_magic.jupyter.commands.context import Context


@dataclass(frozen=True)
class AskArguments:
    """Whom to ask, and how.

    Attributes:
        variable: gets the answer.
        schema: as it was written.
        history: whether to go on with the conversation, also with a new one.
        new: whether to begin a new one.

    Raises:
        InvalidOption: ``variable`` is not a name that Python allows.
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
        """Check what argparse does not."""
        variable = self.variable
        if variable is not None and (not variable.isidentifier() or keyword.iskeyword(variable)):
            raise InvalidOption(f"--as {variable}: that cannot be a variable.")


class AskCommand(SubCommand[AskArguments]):
    """``%%vllm``.

    Args:
        commands: the names of all commands; none of them is the name of a server.
    """

    declaration = CommandDeclaration(
        name=CELL,
        about="say the cell below to a model; its answer comes as Markdown, Interrupt ends it",
        details="Token counts and tokens/s stand below the answer. HTML in it stays text, and no image is loaded. Interrupt ends "
        "the request on the server too, and keeps what was said. The cell is sent as it stands: no {name} is put in.",
        arguments=(SERVER,),
        options=(
            CommandOption("--system", "the system message", "TEXT"),
            CommandOption(
                "--temperature", "0 for the likeliest words each time (else the model's own)", "T", type=float
            ),
            CommandOption(
                "--max-tokens",
                "the most to answer (else as many as there is room for)",
                "N",
                type=positive_integer,
            ),
            CommandOption("--as", "keep the answer in a variable", "VARIABLE", dest="variable"),
            CommandOption(
                "--json",
                "an answer that fits a JSON schema: JSON in single quotes, or a variable with a dict or a pydantic model "
                "class; --as keeps it parsed",
                "SCHEMA",
                dest="schema",
            ),
            CommandOption("--history", "go on with the conversation with this server"),
            CommandOption("--new", "begin a new conversation"),
        ),
        examples=(
            '%%vllm --system "You are a sailor." --max-tokens 200\nWhy is the sea salty?',
            "%%vllm small --as reason --history\nAnd why is it blue?",
        ),
    )

    def __init__(self, commands: Collection[str]) -> None:
        self._commands = commands

    def parse(self, words: Sequence[str]) -> AskArguments:
        """Whom to ask, and how."""
        read = self.read(words)
        found = AskArguments(**{**read, "history": read["history"] or read["new"]})
        if found.name in self._commands:
            raise InvalidOption(
                f"%%vllm asks a server; %vllm {found.name}, with one %, is a line of its own."
            )
        return found

    def run(self, context: Context, arguments: AskArguments) -> None:
        """Say the cell, and show the answer as it comes."""
        server = context.manager.get(arguments.name)
        context.asker.ask(server, context.cell.strip("\n"), arguments, context.shell.user_ns)
