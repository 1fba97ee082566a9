"""The arguments of ``%vllm start``, ``fit`` and ``switch``.

The options of vllm_magic are separated; every other argument goes to vLLM unchanged. ``magic_arguments`` and argparse's
``parse_known_args`` cannot do that: they would take the value after an unknown flag for the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import Argument, CommandOption, ValueKind
from vllm_magic.commands.front_end import NOTEBOOK
from vllm_magic.commands.parser import assignment, integer, seconds
from vllm_magic.engine.flags import config_file, flags
from vllm_magic.engine.spec import ServerSpec, working_directory
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands import settings
from vllm_magic.jupyter.commands.settings import NO_SETTINGS, Profile, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL = Argument(
    "MODEL",
    "the model: ORGANISATION/NAME on the Hugging Face Hub, or a folder",
    ValueKind.MODEL,
    required=True,
)
MODEL_OR_SERVER = Argument(
    "MODEL",
    "the model, as for start, or the name of a server of this kernel, also one that has ended",
    ValueKind.MODEL_OR_SERVER,
    required=True,
)
NO_WAIT = CommandOption("--no-wait", "return at once, while the server starts")
OPTIONS = (
    CommandOption(
        "--name", "name of the server (default: the last part of the model's name)", "NAME", default=""
    ),
    CommandOption(
        "--gpus",
        "GPUs by index or UUID, or auto for those with the most free memory (default: vLLM chooses)",
        "0,1 | auto",
        kind=ValueKind.GPUS,
    ),
    CommandOption("--port", "TCP port (default: a free port)", "N", type=integer),
    CommandOption(
        "--env",
        "environment variable of the server; may be repeated",
        "NAME=VALUE",
        type=assignment,
        repeated=True,
    ),
    CommandOption(
        "--executable",
        "the vllm to run (default: $VLLM_MAGIC_EXECUTABLE, vllm beside this Python, that of %vllm install, vllm on $PATH)",
        "PATH",
        kind=ValueKind.FILE,
    ),
    CommandOption(
        "--vllm",
        "the version of vLLM to run, of those that %vllm install has installed",
        "VERSION",
        kind=ValueKind.VLLM,
    ),
    CommandOption(
        "--profile",
        "insert the arguments of this profile before those of the line",
        "NAME",
        details="A profile is a table in `~/.config/vllm-magic/profiles.toml`.",
    ),
    CommandOption(
        "--force",
        "start even if it seems that the start cannot succeed",
        details=(
            "Without it, an error says who holds the memory and what would fit, or which flag, value or file is "
            "wrong and what to write in its place."
        ),
    ),
    CommandOption(
        "--cluster",
        "run on a Ray cluster (http://HEAD:8265, or auto for $RAY_ADDRESS); see docs/cluster.md",
        "ADDRESS",
    ),
    CommandOption(
        "--keep",
        "keep the server for this time after the kernel's end (default: it ends with the kernel)",
        "TIME",
        type=seconds,
        details="Another kernel takes it over with %vllm attach, or with the same start command.",
    ),
    CommandOption(
        "--ttl",
        "stop the server after this time without a request",
        "TIME",
        type=seconds,
        details="vLLM's own counters show the requests, and so do connections that wait for an answer.",
    ),
    NO_WAIT,
    CommandOption("--timeout", "stop the server if it is not ready after this time", "TIME", type=seconds),
)
NO_RETURN = CommandOption(
    "--no-return", "if the server does not start, leave those that sleep or were stopped for it as they are"
)
OPTIONS_OF_SWITCH = (*OPTIONS, NO_RETURN)


@dataclass(frozen=True)
class StartArguments:
    """The separated arguments of a line.

    Attributes:
        own: the options of vllm_magic, with "=" between flag and value.
        rest: the model, if it is given, and the flags of vLLM.
    """

    own: tuple[str, ...]
    rest: tuple[str, ...]


@dataclass(frozen=True)
class StartRequest:
    """A start.

    Attributes:
        spec: the spec of the server.
        wait: whether to wait until the server is ready.
        timeout: the limit of that wait in seconds; None for no limit.
        restore: whether a switch that fails brings the other servers back.
    """

    spec: ServerSpec
    wait: bool
    timeout: float | None
    restore: bool = True


def parse(args: Sequence[str], defaults: Settings = NO_SETTINGS, *, command: str = "start") -> StartRequest:
    """Return the start that these arguments, their profile and the settings describe together.

    Args:
        args: the text arguments after the name of the command.
        defaults: the settings.
        command: the name of the command, for errors.

    Raises:
        InvalidOption: an argument is missing or not valid.
    """
    return request(separate(args), defaults, command=command)


def request(
    arguments: StartArguments,
    defaults: Settings = NO_SETTINGS,
    *,
    command: str = "start",
    options: Sequence[CommandOption] = OPTIONS,
) -> StartRequest:
    """Return the same as `parse`, for arguments that are already separated.

    Args:
        arguments: the separated arguments.
        defaults: the settings.
        command: the name of the command, for errors.
        options: the options of vllm_magic that the command has.

    Raises:
        InvalidOption: an argument is missing or not valid.
    """
    parser = NOTEBOOK.parser(command)
    parser.set_defaults(no_return=False)
    _check_vllm(arguments.own)
    for option in options:
        option.add_to(parser)
    own, rest = list(arguments.own), _without_program(arguments.rest)
    name = parser.parse_args(own).profile
    profile = settings.profile(name) if name else Profile("", ())
    model = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if model is None:
        model, rest = _named_by_flag(rest)
    before = separate([*defaults.args(), *profile.args])
    default_flags = before.rest
    model = model or profile.model or config_file.read_model((*default_flags, *rest), working_directory())
    if not model:
        raise InvalidOption(
            f"Which model? Write it first, then vLLM's flags: {NOTEBOOK.line(command)} MODEL [flags]."
        )
    if default_flags and not default_flags[0].startswith("-"):
        raise InvalidOption(
            f"{default_flags[0]!r} among the default flags or the flags of the profile is not a flag: it does not begin with a dash."
        )
    given = parser.parse_args(_with_executable([*before.own, *own]))
    spec = ServerSpec(
        model=model,
        args=(*default_flags, *rest),
        name=given.name,
        gpus=given.gpus,
        port=given.port,
        executable=given.executable or None,
        ttl=given.ttl,
        force=given.force,
        env=tuple(sorted(dict(given.env).items())),
        keep=given.keep,
        cluster=given.cluster or None,
    )
    return StartRequest(spec, not given.no_wait, given.timeout, restore=not given.no_return)


def separate(args: Sequence[str], options: Sequence[CommandOption] = OPTIONS) -> StartArguments:
    """Separate these options of vllm_magic from the rest; everything after ``--`` belongs to the rest.

    Raises:
        InvalidOption: an option has no value.
    """
    valued = {option.flag for option in options if option.takes_value}
    switches = {option.flag for option in options if not option.takes_value}
    own: list[str] = []
    rest: list[str] = []
    pending = iter(args)
    for arg in pending:
        flag, equals, _ = arg.partition("=")
        if arg == "--":
            rest.extend(pending)
        elif flag in valued:
            # argparse takes a value that begins with a dash only after "=".
            own.append(arg if equals else f"{arg}={_value_of(arg, pending)}")
        elif flag in switches:
            own.append(arg)
        else:
            rest.append(arg)
    return StartArguments(tuple(own), tuple(rest))


def _check_vllm(own: Sequence[str]) -> None:
    """Check that a line names vLLM in one way.

    Raises:
        InvalidOption: it has a version and a path.
    """
    if {"--vllm", "--executable"} <= {option.partition("=")[0] for option in own}:
        raise InvalidOption("--vllm and --executable both say which vLLM to run. Leave one of them out.")


def _with_executable(own: Sequence[str]) -> list[str]:
    """Return the options with the path of vLLM in place of its version: of both, the later one is used.

    Raises:
        InvalidOption: the version is not installed.
    """
    words = []
    for option in own:
        flag, _, version = option.partition("=")
        if flag == "--vllm":
            from vllm_magic.engine import environments  # few starts need them

            words.append(f"--executable={environments.named(version).executable}")
        else:
            words.append(option)
    return words


def _without_program(words: Sequence[str]) -> list[str]:
    """Return the words of a pasted command line without ``vllm serve``, or ``serve``."""
    rest = list(words)
    if rest[:2] == ["vllm", "serve"]:
        del rest[:2]
    elif rest[:1] == ["serve"] and rest[1:] and not rest[1].startswith("-"):
        del rest[0]
    return rest


def _named_by_flag(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the model that ``--model`` names, as vLLM accepts it, and the words without it; None if there is none."""
    model, rest = flags.pop(words, "--model")
    return model, list(rest)


def _value_of(flag: str, args: Iterator[str]) -> str:
    value = next(args, None)
    if value is None:
        raise InvalidOption(f"{flag} needs a value: {flag} VALUE.")
    return value
