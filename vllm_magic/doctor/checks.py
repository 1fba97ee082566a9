"""The checks of the doctor: each yields findings, which say what is wrong, with the command that fixes it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import durations, ledger
from vllm_magic.doctor import jobs
from vllm_magic.doctor.findings import Finding, Topic
from vllm_magic.doctor.unowned import Owner
from vllm_magic.engine import environments
from vllm_magic.engine.start_checks import machine as machine_limits
from vllm_magic.gpu import locks
from vllm_magic.guard.record import Phase
from vllm_magic.ledger import Condition
from vllm_magic.linux import details, disk, home, machine, marks
from vllm_magic.linux.processes import shown_name
from vllm_magic.linux.shared_memory import Segment, present
from vllm_magic.recovery import orphaned_commands
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vllm_magic.children.installed import Installed
    from vllm_magic.doctor.findings import ReportedServer, ReportedTree
    from vllm_magic.engine.environments import BrokenEnvironment, InstalledEnvironment
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.guard.record import Record
    from vllm_magic.ledger import Entry
    from vllm_magic.recovery.orphaned_commands import OrphanedCommand

NO_DRIVER = (  # what `gpu.nvml_child` says of a machine without GPUs: a fact, not a fault
    "no NVIDIA driver found",
    "the NVIDIA driver is not loaded",
    "the NVIDIA driver shows no GPU",
)
REBOOT = "reboot"
_WHOSE = {False: "a vLLM server", True: "a server of vllm_magic whose record is lost"}


def guards(servers: Iterable[ReportedServer]) -> Iterator[Finding]:
    """Yield a finding for each of our servers whose guards do nothing: they are stopped, or do not answer."""
    for server in servers:
        who = f" (pid {', '.join(map(str, server.stopped))})" if server.stopped else ""
        if server.condition == Condition.HUNG:
            yield Finding(
                Topic.GUARDS,
                f"The kernel (pid {server.kernel}) of the server {server.name} is gone, and nothing releases the server: its guards{who} "
                f"{'are stopped' if server.stopped else 'do not answer'}. {_processes(server.pids)} of the server "
                f"{_still_run(server.pids, server.bytes)}.",
                "vllm-magic reap",
            )
        elif server.stopped:
            yield Finding(
                Topic.GUARDS,
                f"The guards of the server {server.name}{who} are stopped. If its kernel died now, nothing would release the server.",
                f"kill -CONT {' '.join(map(str, server.stopped))}",
            )


def orphans(servers: Iterable[ReportedServer]) -> Iterator[Finding]:
    """Yield a finding for each of our servers whose kernel and guards are gone."""
    for server in servers:
        if server.condition == Condition.ORPHANED:
            yield Finding(
                Topic.ORPHAN,
                f"The server {server.name} was left behind when its kernel (pid {server.kernel}) died: "
                f"{_processes(server.pids)} of the server {_still_run(server.pids, server.bytes)}. It was started {_ago(server.since)}.",
                "vllm-magic reap",
            )


def commands(orphaned: Iterable[OrphanedCommand]) -> Iterator[Finding]:
    """Yield the commands, such as benchmarks, that outlive their kernel."""
    for command in orphaned:
        pids = [process.identity.pid for process in command.processes]
        names = orphaned_commands.listed(
            (shown_name(process), process.identity.pid) for process in command.processes
        )
        yield Finding(
            Topic.COMMAND,
            f"The kernel (pid {command.kernel}) of a command is gone, and {_processes(pids)} of the command {_still_run(pids, None)}: {names}.",
            "vllm-magic reap",
        )


def unowned(elsewhere: Iterable[ReportedTree]) -> Iterator[Finding]:
    """Yield the findings about vLLM processes that nobody owns: one finding for each process group, which one server left."""
    groups: dict[tuple[str, int], list[ReportedTree]] = {}
    for tree in elsewhere:
        if tree.owner == Owner.NOBODY:
            groups.setdefault((tree.user, tree.group), []).append(tree)
    for (user, _), group in groups.items():
        pids = [pid for tree in group for pid in tree.pids]
        known = [tree.bytes for tree in group if tree.bytes is not None]
        titles = ", ".join(f"{tree.title[:40]} (pid {tree.pid})" for tree in group)
        age = durations.short_text(max(tree.age for tree in group))
        whose = _WHOSE[any(tree.ours for tree in group)]
        command = "vllm-magic reap " + " ".join(f"--pid {tree.pid}" for tree in group)
        yield Finding(
            Topic.UNOWNED,
            f"{_processes(pids)} of {whose} {_still_run(pids, sum(known) if len(known) == len(group) else None)}, "
            f"and nobody owns {'it' if len(pids) == 1 else 'them'}: {titles}, of {user}, {age} old.",
            command if user == details.user(os.getuid()) else f"sudo -u {shlex.quote(user)} {command}",
        )


def left(entries: Iterable[Entry]) -> Iterator[Finding]:
    """Yield a finding for each ended server that left files here, or whose job may still run on a cluster."""
    for entry in entries:
        if entry.record is None:
            continue
        if entry.condition is Condition.LEFT:
            # A job may still run on its cluster, though no process of the server lives here.
            yield jobs.orphaned_job(entry.record) if entry.record.job else _left_files(entry, entry.record)
        elif of_an_earlier_boot(entry):
            yield Finding(
                Topic.LEFT,
                f"The server {entry.record.name} ran before this machine was restarted, and left its folder.",
                f"rm -r {shlex.quote(str(entry.path))}",
            )


def _left_files(entry: Entry, record: Record) -> Finding:
    segments = len(present(Segment(*segment) for segment in record.segments))
    files = [str(entry.path)]
    files += [str(entry.folder.tmp)] if _outside(entry) else []
    files += [f"{segments} of its files in /dev/shm"] if segments else []
    return Finding(
        Topic.LEFT,
        f"The server {record.name} has ended, and left files: {', '.join(files)}.",
        "vllm-magic reap",
    )


def records(entries: Iterable[Entry]) -> Iterator[Finding]:
    """Yield a finding for each folder in the ledger whose record does not tell which server it was."""
    for entry in entries:
        if entry.condition is not Condition.TORN:
            continue
        problem = f"The folder {entry.path} does not say which server it belonged to: {entry.problem}."
        living = [process.identity.pid for process in marks.members(entry.folder.mark, None)]
        if living:
            problem += f" {_processes(living)} of the server {_still_run(living, None)}; end them first."
            yield Finding(Topic.RECORD, problem, f"kill {' '.join(map(str, sorted(living)))}")
        else:
            problem += " No process of the server runs. Remove the folder if you need no file in it."
            yield Finding(Topic.RECORD, problem, f"rm -r {shlex.quote(str(entry.path))}")


def ports(servers: Iterable[ReportedServer]) -> Iterator[Finding]:
    """Yield a finding for each living server that does not listen on its port. Another process may listen there."""
    for server in servers:
        if server.condition not in (Condition.OWNED, Condition.KEPT) or server.phase == Phase.STOPPING:
            continue
        others = [listener for listener in server.listening if listener.pid not in server.pids]
        ours = len(others) < len(server.listening)
        if others and not ours:
            who = f"{others[0].who[:60]} (pid {others[0].pid})" if others[0].pid else "a process"
            yield Finding(
                Topic.PORT,
                f"The server {server.name} should listen on port {server.port}, but {who} of {others[0].user} does. "
                "Stop the server and start it again; it then takes a free port.",
                f"vllm-magic stop {shlex.quote(server.name)}",
            )
        elif not ours and server.phase not in (Phase.SPARE, Phase.STARTING):
            yield Finding(
                Topic.PORT,
                f"The server {server.name} runs, but does not listen on its port {server.port}. Its log may say why.",
                f"vllm-magic logs {shlex.quote(server.name)}",
            )


def folders(state: str, locked: str) -> Iterator[Finding]:
    """Yield the findings about the state folder, its disk and the folder of the locks.

    Args:
        state: the error in reading the state folder; "" for none.
        locked: the error in reading the folder of the locks; "" for none.
    """
    if state:
        yield Finding(Topic.FOLDER, f"{state[:1].upper()}{state[1:]}", _state_folder_command())
    elif full := ledger.full_disk():
        yield Finding(Topic.FOLDER, f"{full}.", f"df -h {shlex.quote(str(ledger.state_path()))}")
    if locked:
        path = locks.folder_path()
        command = f"chmod 700 {path}" if _is_mine(path) else f"sudo rm -r {path}"
        yield Finding(Topic.FOLDER, f"{locked}.", command)


def _state_folder_command() -> str:
    """The command after which the state folder can be used."""
    elsewhere = "export VLLM_MAGIC_HOME=~/.vllm_magic"
    try:
        path = ledger.state_path()
        if _is_mine(path) and disk.call(path, os.stat, path).st_mode & 0o077:
            return f"chmod 700 {shlex.quote(str(path))}"
        home.expanded("~")
    except TimeoutError:
        return elsewhere
    except OSError:  # this user has no home folder
        return "export VLLM_MAGIC_HOME=/path/to/a/folder/of/your/own"
    return elsewhere


def proc(problem: str) -> Iterator[Finding]:
    """Yield a finding if processes cannot be identified in /proc; ``problem`` says why not, "" if they can."""
    if problem:
        yield Finding(
            Topic.PROC,
            f"{problem}: nothing can be started, seen or ended here. {machine.PROC_HINT}.",
            "mount -t proc proc /proc",
        )


def driver(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield a finding if the NVIDIA driver is installed and does not work."""
    if snapshot.problem is None or snapshot.problem in NO_DRIVER:
        return
    command = (
        "pip install nvidia-ml-py" if "nvidia-ml-py" in snapshot.problem
        else "sudo reboot" if REBOOT in snapshot.problem
        else "nvidia-smi"
    )  # fmt: skip
    yield Finding(Topic.DRIVER, f"{snapshot.problem[:1].upper()}{snapshot.problem[1:]}.", command)


def vllm(installed: Installed) -> Iterator[Finding]:
    """Yield a finding if vLLM is missing or broken."""
    if installed.problem:
        is_misled = installed.executable is None and bool(os.environ.get("VLLM_MAGIC_EXECUTABLE"))
        # The vLLM beside this Python comes before an environment.
        path = installed.executable
        is_beside = path is not None and Path(path).parent == Path(sys.executable).parent
        install = "pip install --force-reinstall vllm" if is_beside else "vllm-magic install"
        yield Finding(Topic.VLLM, installed.problem, "unset VLLM_MAGIC_EXECUTABLE" if is_misled else install)


def installations(
    installed: Sequence[InstalledEnvironment], broken: Sequence[BrokenEnvironment], chosen: str
) -> Iterator[Finding]:
    """Yield a finding for each environment of vLLM that does not work. One that is being installed is none.

    Args:
        installed: the environments that work.
        broken: those that do not.
        chosen: the name of the environment that starts are to use; "" for the newest.
    """
    for one in broken:
        if one.is_unfinished:
            continue
        what = f"The environment of vLLM {one.path} is not used: {one.problem}."
        if one.is_main_folder:
            yield Finding(Topic.VLLM, what, f"export {environments.VARIABLE}=/path/to/a/folder/of/your/own")
        elif one.version and (one.name == chosen or not installed):
            yield Finding(Topic.VLLM, what, f"vllm-magic install {one.version}")
        else:
            yield Finding(Topic.VLLM, what, f"vllm-magic install --remove {one.name}")
    if chosen and chosen not in {*(one.name for one in installed), *(one.name for one in broken)}:
        use = f"vllm-magic use {environments.NEWEST}"
        yield Finding(
            Topic.VLLM, f"The environment of vLLM {chosen} was chosen for each start, and is gone.", use
        )


def limits(snapshot: Snapshot, version: str | None) -> Iterator[Finding]:
    """Yield a finding for each limit of this machine that is too low for a server on all its GPUs. A start checks the same limits.

    Args:
        snapshot: the GPUs.
        version: the version of the vLLM that a start would run; None if it is not known.
    """
    for problem in machine_limits.problems(len(snapshot.gpus), version or ""):
        yield Finding(Topic.LIMIT, f"{problem.cause}. {problem.remedy}.", problem.command)


def of_an_earlier_boot(entry: Entry) -> bool:
    """Whether the server ran on this same machine before its last boot, so that no process of the server can live."""
    if entry.record is None or entry.condition is not Condition.FOREIGN:
        return False
    then, now = entry.record.where, machine.here()
    return (then.user, then.host) == (now.user, now.host) and then.boot != now.boot


def _outside(entry: Entry) -> bool:
    """Whether the server's TMPDIR exists, and is not in its folder in the ledger."""
    tmp = entry.folder.tmp
    return entry.path not in tmp.parents and tmp.is_dir() and tmp.stat().st_uid == machine.here().user


def _processes(pids: Sequence[int]) -> str:
    return "1 process" if len(pids) == 1 else f"{len(pids)} processes"


def _still_run(pids: Sequence[int], used: int | None) -> str:
    s = "s" if len(pids) == 1 else ""
    return f"still run{s} and hold{s} {gib(used)} of GPU memory" if used else f"still run{s}"


def _ago(when: float) -> str:
    return f"{durations.short_text(max(0.0, time.time() - when))} ago"


def _is_mine(path: Path) -> bool:
    return disk.call(path, _is_folder_of_user, path)


def _is_folder_of_user(path: Path) -> bool:
    return path.is_dir() and path.lstat().st_uid == os.getuid()
