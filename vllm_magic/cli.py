"""``vllm-magic``: the same words in a terminal, for when the kernel is gone, or is another one.

Exit status: 0 all is well or done, 1 there is something to do or it did not work, 2 the words do not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.linux import support

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm_magic.gpu.probe import Probe
    from vllm_magic.release.result import Release

DONE, TO_DO, WRONG_WORDS = 0, 1, 2
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell says it
INTERRUPTED = 130  # 128 + SIGINT

EPILOGUE = "NAME may also be the id that ps shows. In a notebook the same is %vllm help."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words; None for those of this process.

    Returns:
        The exit status.
    """
    if sys.stdout is None:  # started with it closed
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    words = _parser().parse_args(argv)
    try:
        support.check()
        status: int = words.run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except VllmMagicError as error:
        sys.stdout.flush()
        print("\n".join((f"vllm-magic: {error}", *error.details)), file=sys.stderr)
        return WRONG_WORDS if isinstance(error, InvalidOption) else TO_DO
    except OSError as error:  # the state folder is another user's, or on a disk that fails
        print(f"vllm-magic: {error}", file=sys.stderr)
        return TO_DO
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm-magic",
        description="See, stop and clear up vLLM servers, from any terminal.",
        epilog=EPILOGUE,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vllm-magic {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=about, description=about[:1].upper() + about[1:] + ".", allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    add("doctor", _doctor, "what is wrong on this machine, and what helps").add_argument(
        "--json", action="store_true", help="as JSON"
    )
    add("ps", _ps, "the servers of all your kernels").add_argument(
        "--json", action="store_true", help="as JSON"
    )
    stop = add("stop", _stop, "end a server, and prove that nothing of it is left")
    stop.add_argument("name", type=_name, metavar="NAME")
    stop.add_argument("--grace", type=_time, metavar="TIME", help="from SIGTERM to SIGKILL (5)")
    logs = add("logs", _logs, "the last lines of a server's log, also after its end")
    logs.add_argument("name", type=_name, metavar="NAME")
    logs.add_argument("-n", type=_count, default=50, metavar="LINES", help="how many (50)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the server has ended")
    reap = add("reap", _reap, "release what dead kernels left")
    reap.add_argument(
        "--pid",
        type=int,
        action="append",
        metavar="PID",
        help="a vLLM process that nobody owns; may be repeated",
    )
    reap.add_argument("--yes", action="store_true", help="end it; without this it is only shown")
    add("gpu", _gpu, "who holds how much of which GPU")
    return parser


def _doctor(words: argparse.Namespace) -> int:
    from vllm_magic.doctor import text
    from vllm_magic.doctor.survey import survey

    with _probe() as probe:
        report = survey(probe)
    _print([json.dumps(report.data(), indent=2)] if words.json else text.lines(report))
    return DONE if report.healthy else TO_DO


def _ps(words: argparse.Namespace) -> int:
    from vllm_magic.doctor import text
    from vllm_magic.doctor.survey import servers

    found = servers()
    if words.json:
        from dataclasses import asdict

        _print([json.dumps([asdict(one) for one in found], indent=2)])
    else:
        _print(text.servers(found))
    return DONE


def _stop(words: argparse.Namespace) -> int:
    from vllm_magic.errors import ServerNotFound
    from vllm_magic.provisioning.base import CLUSTER_GRACE, GRACE, PATIENCE
    from vllm_magic.recovery import lookup, remote_stop

    try:
        entry, record = lookup.living(words.name)
    except ServerNotFound:
        if _look_again(words.name):
            return DONE
        raise
    grace, patience = (CLUSTER_GRACE, CLUSTER_GRACE) if record.job else (GRACE, PATIENCE)
    if words.grace is not None:
        grace, patience = words.grace, min(words.grace, patience)
    with _probe() as probe:
        release = remote_stop.stop(entry, record, probe, grace, patience)
    _print(_released(release, note=bool(record.job or release.doubt)))
    return DONE


def _look_again(name: str) -> bool:
    """Look at the memory of servers of this name that have ended, and whose release is not proved; False for none.

    Raises:
        ReleaseFailed: it is not back.
    """
    from vllm_magic.release import report, unproved

    with _probe() as probe:
        looked = unproved.look_again(probe, name)
    for one in looked:
        if not one.verified:
            raise report.not_released(one.release)
        _print(_released(one.release, note=bool(one.release.doubt)))
    return bool(looked)


def _released(release: Release, *, note: bool) -> list[str]:
    from vllm_magic.sizes import gib

    back = (f"GPU {gpu.index}: {gib(gpu.freed)} came back." for gpu in release.vram)
    return [release.text, *([f"({release.note})"] if note else []), *back]


def _logs(words: argparse.Namespace) -> int:
    from vllm_magic.engine.startup import log
    from vllm_magic.recovery import lookup

    if words.follow:
        for line in lookup.follow(words.name, words.n):
            print(line, flush=True)
        return DONE
    _print(log.tail(lookup.log(words.name), words.n, lookup.secrets(words.name)))
    return DONE


def _reap(words: argparse.Namespace) -> int:
    with _probe() as probe:
        return _reap_strangers(words.pid, probe, sure=words.yes) if words.pid else _reap_orphans(probe)


def _reap_orphans(probe: Probe) -> int:
    from vllm_magic.recovery.sweep import sweep_all

    done = sweep_all(probe)
    _print([one.text for one in done] or ["Nothing to reap."])
    return DONE if all(one.verified for one in done) else TO_DO


def _reap_strangers(pids: list[int], probe: Probe, *, sure: bool) -> int:
    from vllm_magic.doctor import reap

    candidates = reap.judge_all(pids)
    _print(repr(reap.view(candidates, probe.snapshot())).splitlines())
    if not sure:
        _print(["", reap.not_yet(pids)])
        return TO_DO
    sys.stdout.flush()
    reaped = [reap.reap(candidate, probe) for candidate in candidates]
    _print(["", *map(reap.told, reaped)])
    return DONE if all(one.verified for one in reaped) else TO_DO


def _gpu(_: argparse.Namespace) -> int:
    from vllm_magic.doctor import gpus
    from vllm_magic.doctor.survey import holders

    with _probe() as probe:
        now, used = holders(probe)
    _print(repr(gpus.view(now, used)).splitlines())
    return DONE if now.gpus else TO_DO


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
    encoding = sys.stdout.encoding or "utf-8"  # a terminal may know no box-drawing characters
    print(text.encode(encoding, "replace").decode(encoding))


def _version() -> str:
    from vllm_magic import __version__

    return __version__


def _time(text: str) -> float:
    from vllm_magic import durations

    try:
        return durations.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: 90, 90s, 30m or 1h30m") from None


def _count(text: str) -> int:
    with suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines: 1 or more")


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("Which server? vllm-magic ps shows them.")
    return text


if __name__ == "__main__":
    sys.exit(main())
