"""The declarations of the commands that a notebook and a terminal share.

Their texts name ``%vllm``; `CommandDeclaration.at` changes that for a terminal. Each front end adds the arguments,
options and examples that only it has.
"""

from __future__ import annotations

from vllm_magic.commands.declaration import Argument, CommandDeclaration, CommandOption, ValueKind
from vllm_magic.commands.parser import positive_integer, seconds

STOP = CommandDeclaration(
    name="stop",
    about="stop a server and prove that its VRAM is back",
    options=(
        CommandOption(
            "--grace",
            "time from SIGTERM to SIGKILL",
            "TIME",
            type=seconds,
            details="The default is 5 s, or 2.5 s while SIGTERM shows no effect; vLLM's --shutdown-timeout is added.",
        ),
    ),
)
LOGS = CommandDeclaration(
    name="logs",
    about="the last lines of a server's log, also after the server has ended",
    options=(
        CommandOption(
            "-n", "number of lines (default: 50)", "N", dest="count", type=positive_integer, default=50
        ),
    ),
)
GPU = CommandDeclaration(
    name="gpu",
    about="which processes hold how much memory of each GPU",
    examples=("%vllm gpu",),
)
DOCTOR = CommandDeclaration(
    name="doctor",
    about="what is wrong on this machine, with a command that fixes each problem",
    details="It also shows who holds GPU memory, and what cannot be seen from here.",
    examples=("%vllm doctor",),
)
REAP = CommandDeclaration(
    name="reap",
    about="release the servers that dead kernels left behind",
    options=(
        CommandOption(
            "--pid",
            "show a vLLM process that nobody owns since its server was killed; may be repeated",
            "PID",
            type=positive_integer,
            repeated=True,
        ),
        CommandOption("--yes", "end these processes (default: only show them)"),
    ),
    examples=("%vllm reap", "%vllm reap --pid 4711 --yes"),
)
INSTALL = CommandDeclaration(
    name="install",
    about="install a vLLM that works on this machine, in an environment of its own",
    details=(
        "The version is chosen for the driver, the GPUs, the system and the Pythons that are there; without a GPU, it is the build "
        "for the CPU. Starts use an environment only after vLLM was seen to work in it."
    ),
    arguments=(
        Argument(
            "VERSION", "the version, as 0.17.0 or 0.17 (default: the newest that works on this machine)"
        ),
    ),
    options=(
        CommandOption(
            "--dry-run", "say what would be installed, why, how much that is and where; download nothing"
        ),
        CommandOption("--cpu", "install the build for the CPU, although there is a GPU"),
        CommandOption("--pre", "a pre-release may be chosen"),
        CommandOption(
            "--into",
            "the folder for the environment (default: that of vllm_magic)",
            "DIR",
            kind=ValueKind.FOLDER,
        ),
        CommandOption(
            "--from",
            "a folder with all packages, for a machine without internet",
            "DIR",
            dest="wheels",
            kind=ValueKind.FOLDER,
        ),
        CommandOption(
            "--download",
            "download all packages into a folder, for another machine without internet",
            "DIR",
            kind=ValueKind.FOLDER,
        ),
        CommandOption(
            "--for",
            "that machine, as driver=550,cc=7.5,python=3.12,glibc=2.35",
            "MACHINE",
            dest="machine",
            details="cc is the compute capability of its GPUs. Without a GPU, driver and cc are left out.",
        ),
        CommandOption("--list", "list the environments, and the disk that each takes"),
        CommandOption("--remove", "remove the environment of this version", "VERSION", kind=ValueKind.VLLM),
    ),
    examples=(
        "%vllm install --dry-run",
        "%vllm install",
        "%vllm install 0.17.0",
        "%vllm install --remove 0.17.0",
    ),
)
USE = CommandDeclaration(
    name="use",
    about="choose the installed vLLM that each start runs; without VERSION, a list of those that are installed",
    details="The choice is kept for this user. `newest` stands for the newest version, also if a newer one is installed later.",
    arguments=(
        Argument(
            "VERSION", "the version, as 0.17.0, or newest (default: only show the list)", ValueKind.VLLM
        ),
    ),
    examples=("%vllm use 0.17.0", "%vllm use newest"),
)
HELP = CommandDeclaration(
    name="help",
    about="this list, or the page of one command",
    details="`%vllm COMMAND --help` shows the same page.",
    arguments=(Argument("COMMAND", "the command (default: the list of all commands)", ValueKind.COMMAND),),
    examples=("%vllm help", "%vllm help stop"),
)
