"""A command of ``%vllm``: its declaration, and what it does in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vllm_magic.commands.declaration import Argument, ValueKind
from vllm_magic.commands.parser import server_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.commands.declaration import CommandDeclaration
    from vllm_magic.jupyter.commands.context import Context

ParsedT = TypeVar("ParsedT")


@dataclass(frozen=True)
class ServerName:
    """The name of the server that a command is for; None for the only server."""

    name: str | None = None


@dataclass(frozen=True)
class NoArguments:
    """The arguments of a command that takes none."""


class SubCommand(ABC, Generic[ParsedT]):
    """A sub-command of ``%vllm``, or ``%%vllm`` itself. It holds no state: there is one object of each.

    Attributes:
        declaration: the name, the arguments and the help.
        arguments_type: the class of the parsed arguments.
    """

    declaration: ClassVar[CommandDeclaration]
    arguments_type: type[ParsedT]

    def parse(self, args: Sequence[str]) -> ParsedT:
        """Parse the text arguments after the name of the command.

        Raises:
            InvalidOption: an argument is missing, unknown or not valid.
        """
        return self.arguments_type(**vars(self.declaration.parse(args)))

    @abstractmethod
    def run(self, context: Context, arguments: ParsedT) -> Any:
        """Run the command and return what the cell shows."""


SERVER = Argument(
    "NAME", "the server; may be left out if there is only one", ValueKind.SERVER, type=server_name
)
KNOWN_SERVER = Argument(
    "NAME",
    "the server, also one that has ended; may be left out if there is only one",
    ValueKind.KNOWN_SERVER,
    type=server_name,
)
