"""The declarations of the commands that a notebook and a terminal share.

They are written for a notebook; `CommandDeclaration.at` has them for a terminal. Each front end adds the arguments,
options and examples that the other one has not.
"""

from __future__ import annotations

from vllm_magic.commands.declaration import Argument, CommandDeclaration, CommandOption, ValueKind
from vllm_magic.commands.parser import positive_integer, seconds

STOP = CommandDeclaration(
    name="stop",
    about="end a server, and prove that its VRAM is back",
    options=(
        CommandOption(
            "--grace",
            "from SIGTERM to SIGKILL",
            "TIME",
            type=seconds,
            details="Otherwise it is 5 s, or 2.5 s while SIGTERM shows no effect.",
        ),
    ),
)
LOGS = CommandDeclaration(
    name="logs",
    about="the last lines of the log of a server, also after its end",
    options=(
        CommandOption("-n", "how many lines (else 50)", "N", dest="count", type=positive_integer, default=50),
    ),
)
GPU = CommandDeclaration(
    name="gpu",
    about="who holds how much of which GPU",
    examples=("%vllm gpu",),
)
DOCTOR = CommandDeclaration(
    name="doctor",
    about="what is wrong on this machine, and what helps",
    details="Also who holds what, and what cannot be seen.",
    examples=("%vllm doctor",),
)
REAP = CommandDeclaration(
    name="reap",
    about="release what dead kernels left",
    options=(
        CommandOption(
            "--pid",
            "show a vLLM process that nobody owns: its server was killed; may be repeated",
            "PID",
            type=positive_integer,
            repeated=True,
        ),
        CommandOption("--yes", "end it (else it is only shown)"),
    ),
    examples=("%vllm reap", "%vllm reap --pid 4711 --yes"),
)
HELP = CommandDeclaration(
    name="help",
    about="this, or all about one command",
    details="`%vllm COMMAND --help` is the same.",
    arguments=(Argument("COMMAND", "the command (else the list of all)", ValueKind.COMMAND),),
    examples=("%vllm help", "%vllm help stop"),
)
