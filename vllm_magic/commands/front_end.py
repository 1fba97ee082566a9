"""The two front ends in which a user writes commands: a notebook and a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_magic.commands.parser import Parser

CELL = "%%vllm"  # the cell magic; its name in the table of commands


@dataclass(frozen=True)
class FrontEnd:
    """A front end and what its help says about all commands.

    Attributes:
        program: the word before the name of each command.
        alone: what the program does without a command, in one line.
        notes: lines below the list of all commands.
        width: the largest number of characters in a line of help.
    """

    program: str
    alone: str
    notes: str
    width: int

    def line(self, command: str) -> str:
        """Return the beginning of a line with this command, as ``%vllm stop``."""
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
NAME can be left out where there is only one. {name} and $name put in variables of the notebook ($$ is a
dollar sign), but not in the cell below %%vllm, which is sent as it stands. TIME is 90, 90s, 30m or 1h30m.
`server = %vllm start ...` keeps the server: server.base_url, server.api_key, server.stop().
%vllm help COMMAND, or %vllm COMMAND --help, tells all about one command, with examples.
%config VllmMagics shows what can be set for each start: executable, flags, gpus, host, and the grace of each stop;
and whether there is a spare.
A profile is a table of ~/.config/vllm-magic/profiles.toml, of lines such as model = "ORG/MODEL", gpus = "0,1", ttl = "30m",
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
