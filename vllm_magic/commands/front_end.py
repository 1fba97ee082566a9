"""The two front ends in which a user writes commands: a notebook and a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_magic.commands.parser import Parser

CELL = "%%vllm"  # the cell magic; its name in the table of commands


@dataclass(frozen=True)
class FrontEnd:
    """A front end and what its help says about all commands.

    Attributes:
        program: the text before the name of each command, such as ``%vllm``.
        alone: what the program does without a command, in one line.
        notes: lines below the list of all commands.
        width: the largest number of characters in a line of help.
    """

    program: str
    alone: str
    notes: str
    width: int

    def line(self, command: str) -> str:
        """Return the beginning of a line with this command, such as ``%vllm stop``."""
        return command if command == CELL else f"{self.program} {command}"

    def help_line(self, command: str = "") -> str:
        """Return the line that shows the help of this command; without a command, the list of all."""
        return f"{self.program} help {command}".rstrip()

    def parser(self, command: str) -> Parser:
        """Return a parser without arguments for this command."""
        return Parser(self.line(command), self.help_line(command))


NOTEBOOK = FrontEnd(
    program="%vllm",
    alone="the servers of this kernel: state, URL, age, VRAM",
    notes="""\
NAME may be left out if there is only one server. {name} and $name insert variables of the notebook ($$ is a dollar sign),
but not in the cell below %%vllm, which is sent unchanged. TIME is 90, 90s, 30m or 1h30m.
`server = %vllm start ...` assigns the server: server.base_url, server.api_key, server.stop().
%vllm help COMMAND, or %vllm COMMAND --help, shows one command with examples.
%config VllmMagics shows the settings: executable, flags, gpus and host of each start, grace of each stop, and spare.
A profile is a table in ~/.config/vllm-magic/profiles.toml with lines such as model = "ORG/MODEL", gpus = "0,1", ttl = "30m",
env = { NAME = "VALUE" }, flags = "--max-model-len 32768"; %vllm start --profile NAME uses it.""",
    width=126,
)
TERMINAL = FrontEnd(
    program="vllm-magic",
    alone="the list of the commands",
    notes="""\
NAME may also be the id that vllm-magic ps shows. TIME is 90, 90s, 30m or 1h30m.
vllm-magic help COMMAND, or vllm-magic COMMAND --help, shows one command with
examples. vllm-magic --version shows the version. In a notebook: %vllm help.
Exit status: 0 if all is well or done, 1 if something is to be done or failed,
2 if the command line is wrong.""",
    width=80,
)
