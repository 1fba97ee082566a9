"""``vllm-magic``: the commands in a terminal, also for servers whose kernel is gone or is another one.

Exit status: 0 if all is well or done, 1 if something is to be done or failed, 2 if the command line is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.commands import selection, shared
from vllm_magic.commands.declaration import Argument, CommandDeclaration, CommandOption
from vllm_magic.commands.front_end import TERMINAL
from vllm_magic.commands.parser import server_name
from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.linux import support
from vllm_magic.notation import Notation, use

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from vllm_magic.gpu.probe import Probe
    from vllm_magic.installation.progress import InstallProgress
    from vllm_magic.release.result import Release

DONE, TO_DO, WRONG_LINE = 0, 1, 2  # exit statuses
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
INTERRUPTED = 130  # 128 + SIGINT


@dataclass(frozen=True)
class TerminalCommand:
    """A command of ``vllm-magic``.

    Attributes:
        declaration: the name, the arguments and the help.
        run: runs the command with its parsed arguments and returns the exit status.
    """

    declaration: CommandDeclaration
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the name of the program; None for those of this process.

    Returns:
        The exit status.
    """
    if sys.stdout is None:  # the process was started with standard output closed
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    use(Notation.TERMINAL)
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe. Without this, Python would report that again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except VllmMagicError as error:
        sys.stdout.flush()
        first, *others = error.lines
        print("\n".join((f"vllm-magic: {first}", *others, *error.details)), file=sys.stderr)
        return WRONG_LINE if isinstance(error, InvalidOption) else TO_DO
    except OSError as error:  # the state folder belongs to another user, or its disk fails
        print(f"vllm-magic: {error}", file=sys.stderr)
        return TO_DO
    return status


def declarations() -> dict[str, CommandDeclaration]:
    """Return the declaration of each command by its name, in the order of ``vllm-magic help``."""
    return {command.declaration.name: command.declaration for command in COMMANDS}


def _run(args: Sequence[str]) -> int:
    if list(args) == ["--version"]:
        from vllm_magic import __version__

        _print([f"vllm-magic {__version__}"])
        return DONE
    known = {command.declaration.name: command for command in COMMANDS}
    name, rest = selection.select(known, args, TERMINAL, alone=selection.HELP_COMMAND)
    arguments = known[name].declaration.parse(rest)
    if name != selection.HELP_COMMAND:  # the help is shown on every system
        support.check()
    return known[name].run(arguments)


def _help(arguments: argparse.Namespace) -> int:
    from vllm_magic.commands import help_text

    known, name = declarations(), arguments.command
    if name is None:
        _print(help_text.overview(TERMINAL, known.values()))
    else:
        _print(help_text.page(known[selection.find(known, name, TERMINAL, TERMINAL.help_line())]))
    return DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from vllm_magic.doctor import text
    from vllm_magic.doctor.survey import survey

    with _probe() as probe:
        report = survey(probe)
    _print([json.dumps(report.data(), indent=2)] if arguments.json else text.lines(report))
    return DONE if report.healthy else TO_DO


def _ps(arguments: argparse.Namespace) -> int:
    from vllm_magic import ledger
    from vllm_magic.doctor import text
    from vllm_magic.doctor.survey import servers

    reported = servers()
    if arguments.json:
        from dataclasses import asdict

        _print([json.dumps([asdict(server) for server in reported], indent=2)])
    else:
        # A kernel with other variables has another state folder; whoever misses its server compares the two.
        _print(
            [*text.servers(reported), *([] if reported else [f"The state folder is {ledger.state_path()}."])]
        )
    return DONE


def _stop(arguments: argparse.Namespace) -> int:
    from vllm_magic.errors import ServerNotFound
    from vllm_magic.recovery import lookup, remote_stop

    try:
        entry, record = lookup.living(arguments.name)
    except ServerNotFound:
        if _verify_again(arguments.name):
            return DONE
        raise
    grace, patience = record.stop_grace, record.stop_patience
    if arguments.grace is not None:
        grace, patience = arguments.grace, min(arguments.grace, patience)
    with _probe() as probe:
        release = remote_stop.stop(entry, record, probe, grace, patience)
    _print(_release_lines(release))
    return DONE


def _verify_again(name: str) -> bool:
    """Verify the releases of servers of this name again that are not proved yet; return False if there are none.

    Raises:
        ReleaseFailed: a release is still not proved.
    """
    from vllm_magic.release import report, unproved

    with _probe() as probe:
        rechecked = unproved.recheck(probe, name)
    for recheck in rechecked:
        if not recheck.verified:
            raise report.not_released(recheck.release)
        _print(_release_lines(recheck.release))
    return bool(rechecked)


def _release_lines(release: Release) -> list[str]:
    from vllm_magic.sizes import gib

    freed = (f"GPU {gpu.index}: {gib(gpu.freed)} came back." for gpu in release.vram)
    return [release.text, *([f"({release.proof_note})"] if release.proof_note else []), *freed]


def _logs(arguments: argparse.Namespace) -> int:
    from vllm_magic.engine.startup import log
    from vllm_magic.recovery import lookup

    if arguments.follow:
        for line in lookup.follow(arguments.name, arguments.count):
            print(line, flush=True)
        return DONE
    _print(log.tail(lookup.log(arguments.name), arguments.count, lookup.secrets(arguments.name)))
    return DONE


def _reap(arguments: argparse.Namespace) -> int:
    with _probe() as probe:
        if arguments.pid:
            return _reap_unowned(arguments.pid, probe, confirmed=arguments.yes)
        return _reap_orphans(probe)


def _reap_orphans(probe: Probe) -> int:
    from vllm_magic.recovery.sweep import sweep_all

    swept = sweep_all(probe)
    _print([result.text for result in swept] or ["Nothing to reap."])
    return DONE if all(result.verified for result in swept) else TO_DO


def _reap_unowned(pids: list[int], probe: Probe, *, confirmed: bool) -> int:
    from vllm_magic.doctor import reap

    candidates = reap.find_candidates(pids)
    _print(repr(reap.view(candidates, probe.snapshot())).splitlines())
    if not confirmed:
        _print(["", reap.confirmation_hint(pids)])
        return TO_DO
    sys.stdout.flush()
    reaped = [reap.reap(candidate, probe) for candidate in candidates]
    _print(["", *(result.text for result in reaped)])
    return DONE if all(result.verified for result in reaped) else TO_DO


def _gpu(_: argparse.Namespace) -> int:
    from vllm_magic.doctor import gpus
    from vllm_magic.doctor.survey import holders

    with _probe() as probe:
        now, used = holders(probe)
    _print(repr(gpus.view(now, used)).splitlines())
    return DONE if now.gpus else TO_DO


def _install(arguments: argparse.Namespace) -> int:
    from vllm_magic.doctor import environments, new_environment
    from vllm_magic.linux import home

    if arguments.list or arguments.remove is not None:
        result = environments.listed() if arguments.list else environments.remove(arguments.remove)
        _print(repr(result.view()).splitlines())
        return DONE
    kinds = {"cpu": arguments.cpu, "pre": arguments.pre}
    report = _StepLines().report
    if arguments.download is not None or arguments.machine is not None:
        downloaded = new_environment.download(
            arguments.version, arguments.machine, arguments.download, report=report, **kinds
        )
        _print(repr(downloaded.view()).splitlines())
        return DONE
    with _probe() as probe:
        planned = new_environment.plan(arguments.version, probe, into=arguments.into, **kinds)
    _print(repr(planned.view()).splitlines())
    if arguments.dry_run:
        return DONE
    wheels = Path(home.expanded(arguments.wheels)) if arguments.wheels else None
    _print(repr(new_environment.make(planned, wheels=wheels, report=report).view()).splitlines())
    return DONE


class _StepLines:
    """Prints a line on stderr for each step of an installation."""

    def __init__(self) -> None:
        self._step = ""

    def report(self, progress: InstallProgress) -> None:
        """Print the progress, if a step has begun."""
        from vllm_magic.installation.progress import Step

        if progress.step.value != self._step and progress.step is not Step.DONE:
            self._step = progress.step.value
            print(progress.text, file=sys.stderr, flush=True)


def _use(arguments: argparse.Namespace) -> int:
    from vllm_magic.doctor import environments

    version = arguments.version
    result = environments.listed() if version is None else environments.use(version)
    _print(repr(result.view()).splitlines())
    return DONE


@contextmanager
def _probe() -> Iterator[Probe]:
    from vllm_magic.gpu.probe import Probe

    probe = Probe()
    try:
        yield probe
    finally:
        probe.close()


def _print(lines: Sequence[str]) -> None:
    text = "\n".join(lines)
    encoding = sys.stdout.encoding or "utf-8"  # the encoding may lack box-drawing characters
    print(text.encode(encoding, "replace").decode(encoding))


_JSON = CommandOption("--json", "print JSON")
_NAME = Argument("NAME", "the server, or its id", required=True, type=server_name)
COMMANDS = (
    TerminalCommand(replace(shared.DOCTOR.at(TERMINAL), options=(_JSON,)), _doctor),
    TerminalCommand(
        CommandDeclaration(
            name="ps",
            about="the servers of all your kernels, with the ids of their folders",
            options=(_JSON,),
            examples=("vllm-magic ps", "vllm-magic ps --json"),
            front_end=TERMINAL,
        ),
        _ps,
    ),
    TerminalCommand(
        replace(
            shared.STOP.at(TERMINAL),
            arguments=(_NAME,),
            examples=("vllm-magic stop small", "vllm-magic stop small --grace 30s"),
        ),
        _stop,
    ),
    TerminalCommand(
        replace(
            shared.LOGS.at(TERMINAL),
            arguments=(_NAME,),
            options=(
                *shared.LOGS.options,
                CommandOption("--follow", "go on until the server has ended", short="-f"),
            ),
            examples=("vllm-magic logs small -n 200", "vllm-magic logs small --follow"),
        ),
        _logs,
    ),
    TerminalCommand(shared.REAP.at(TERMINAL), _reap),
    TerminalCommand(shared.GPU.at(TERMINAL), _gpu),
    TerminalCommand(shared.INSTALL.at(TERMINAL), _install),
    TerminalCommand(shared.USE.at(TERMINAL), _use),
    TerminalCommand(shared.HELP.at(TERMINAL), _help),
)
