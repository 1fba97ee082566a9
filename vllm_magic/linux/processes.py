"""Processes by identity: a pid names a process only together with its start time.

Everything is read from ``/proc/PID/stat`` (proc_pid_stat(5)). The start time, field 22, is in clock ticks
since boot: two processes that had the same pid never share it.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import pidfd_calls
from vllm_magic.masking import mask_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INIT = 1  # the first process of a PID namespace
DEAD_STATES = frozenset("ZXx")
HIDDEN = 0  # in place of the start time of a process that /proc does not show
STOPPED_STATES = frozenset("Tt")  # by a signal, by a debugger
_CHUNK = 16384  # bytes
LONGEST_TITLE = 4096  # bytes of a command line that is shown


class Identity(NamedTuple):
    """One process and no other: ``start`` is in clock ticks since boot."""

    pid: int
    start: int


class Process(NamedTuple):
    """One line of ``/proc/PID/stat``; ``name`` is the comm, at most 15 characters."""

    identity: Identity
    name: str
    state: str
    parent: int
    group: int
    session: int
    threads: int

    @property
    def alive(self) -> bool:
        """False for a zombie, unless threads of it live: those still hold its files and its VRAM."""
        return self.state not in DEAD_STATES or self.threads > 1


Table = dict[int, Process]


def read(pid: int) -> Process | None:
    """The process that has this pid now, or None."""
    try:
        text = _content(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The comm may hold blanks and brackets: it ends at the last one.
    head, _, tail = text.rpartition(b")")
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    fields = tail.split()
    return Process(
        identity=Identity(pid, int(fields[19])),
        name=name,
        state=fields[0].decode(),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
    )


def hidden(pid: int) -> Process | None:
    """The living process with this pid if /proc hides it (hidepid, proc(5)); None where it is shown, or there is none.

    Its start time is `HIDDEN`: whether it is the one that had this pid before cannot be told.
    """
    if read(pid) is not None:
        return None
    try:
        fd = pidfd_calls.open_pid(pid)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if poller.poll(0):  # it has ended
            return None
        group, session = os.getpgid(pid), os.getsid(pid)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return Process(Identity(pid, HIDDEN), "a process that /proc hides", "?", 0, group, session, 1)


def hidden_children(pid: int) -> list[Process]:
    """The living children of this process, or of a thread of it, that /proc hides."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found = {child for thread in threads for child in children(pid, int(thread))}
    return [one for child in sorted(found) if (one := hidden(child))]


def pids() -> list[int]:
    """Every process that is visible now, zombies included."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def table() -> Table:
    """Every process that is visible now, by pid, zombies included.

    It reads a file for each; `sessions.near` reads few.
    """
    return {process.identity.pid: process for process in map(read, pids()) if process}


def descendants(processes: Table, *roots: int) -> set[int]:
    """The pids below ``roots`` in the table, zombies included; of these themselves only those below another one."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def session_members(processes: Table, session: int) -> set[int]:
    """The pids whose session id is ``session`` (setsid(2)), zombies included."""
    return {pid for pid, process in processes.items() if process.session == session}


def server_members(processes: Table, leader: Identity) -> set[int]:
    """The pids of a leader's session and of what is below it, zombies included.

    As long as one of them lives, the kernel gives the number of their session to no other process (free_pid in its
    kernel/pid.c waits for the last user of a number). So where another process has it, none of them lives.
    """
    now = processes.get(leader.pid)
    if now is not None and now.identity != leader:
        return set()
    members = session_members(processes, leader.pid)
    return members | descendants(processes, leader.pid, *members)


def leader_of(pid: int, leaders: Mapping[int, Identity]) -> Identity | None:
    """Which of these leaders, by pid, has the process in its session or below it, as `server_members` says; None for none.

    It reads the process and those above it, and no others.
    """
    seen: set[int] = set()
    while pid > 1 and pid not in seen and (process := read(pid)):
        seen.add(pid)
        leader = leaders.get(pid) or leaders.get(process.session)
        if leader is not None:
            now = read(leader.pid)
            return leader if now is None or now.identity == leader else None
        pid = process.parent
    return None


def children(pid: int, thread: int | None = None) -> set[int]:
    """The pids of the children of a process's first thread, or of this one; empty where the kernel does not list them."""
    try:
        with open(f"/proc/{pid}/task/{thread or pid}/children", encoding="ascii") as file:
            return {int(child) for child in file.read().split()}
    except OSError:
        return set()


def living(identity: Identity) -> Process | None:
    """This very process as it is now (and not merely its pid); None once it has ended.

    Of one that was hidden, the pid is all that is known: it counts as living while a process with it is hidden.
    """
    if identity.start == HIDDEN:
        return hidden(identity.pid)
    process = read(identity.pid)
    return process if process is not None and process.identity == identity and process.alive else None


def is_alive(identity: Identity) -> bool:
    """True while this very process lives."""
    return living(identity) is not None


def title(pid: int) -> str:
    """The command line as ``ps`` shows it, keys masked: for vLLM's processes the name they gave themselves; "" if gone.

    Of one with more than `LONGEST_TITLE` bytes, which any user can make, only the words that begin it.
    """
    try:
        text = _content(f"/proc/{pid}/cmdline", LONGEST_TITLE + 1)
    except OSError:
        return ""
    if len(text) > LONGEST_TITLE:
        text = text[:LONGEST_TITLE]
        # Without the word that is cut: it may be a key that cannot be recognised any more.
        text = text[: max(text.rfind(b"\0"), text.rfind(b" "), 0)]
    # Behind a title that it gave itself are as many of them as its words were long.
    words = text.rstrip(b"\0").decode("utf-8", "replace").split("\0")
    return " ".join(mask_words(words)).strip()


def umask() -> int | None:
    """The umask of this process, which os.umask would change for all its threads; None where /proc does not tell."""
    try:
        status = _content("/proc/self/status")
        return next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith(b"Umask:"))
    except (OSError, StopIteration):
        return None


def shown_name(process: Process) -> str:
    """Its title, or its comm where it has none.

    A process that is stuck in the kernel (state D) may hold the lock that a read of its command line waits for.
    """
    return process.name if process.state == "D" else title(process.identity.pid) or process.name


def folders(pid: int) -> Iterator[str]:
    """Where /proc tells of the process: under its pid, then under its threads.

    A leader that ended before its threads is a zombie: it shows no memory, files or environment, its threads do.
    """
    yield f"/proc/{pid}"
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        yield f"/proc/{pid}/task/{thread}"


def has_environment(pid: int, entry: bytes) -> bool:
    """Whether the process was started with the environment entry ``b"NAME=value"``; False if unreadable."""
    text = _environment(pid)
    return entry in text and entry in text.split(b"\0")


def environment(pid: int) -> dict[str, str]:
    """The environment that the process was started with; empty if unreadable."""
    entries = filter(None, _environment(pid).decode("utf-8", "replace").split("\0"))
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def _environment(pid: int) -> bytes:
    for folder in folders(pid):
        try:
            text = _content(f"{folder}/environ")
        except PermissionError:
            return b""
        except OSError:
            continue
        if text:
            return text
    return b""


def open_files(pid: int) -> dict[str, str]:
    """What the process holds open: the link in /proc to a path, or to ``socket:[inode]``; empty if unreadable."""
    found: dict[str, str] = {}
    for folder in folders(pid):
        try:
            names = os.listdir(f"{folder}/fd")
        except PermissionError:
            return found
        except OSError:
            continue
        for name in names:
            link = f"{folder}/fd/{name}"
            try:
                found[link] = os.readlink(link)
            except OSError:
                continue
        if names:
            break
    return found


def hides_files(pid: int) -> bool:
    """Whether this user may not see what the process holds open."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _content(path: str, most: int = 2**30) -> bytes:
    """What is in a file of /proc, ``most`` bytes or a little more. Looks read thousands of them, and `open` alone takes as long as all this."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = chunk = os.read(fd, _CHUNK)
        while len(chunk) == _CHUNK and len(text) < most:  # less is the end
            chunk = os.read(fd, _CHUNK)
            text += chunk
        return text
    finally:
        os.close(fd)
