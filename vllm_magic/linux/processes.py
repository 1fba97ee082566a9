"""Processes, identified by pid and start time, since a pid can be given to another process.

The data comes from ``/proc/PID/stat`` (proc_pid_stat(5)). The start time, field 22, is in clock ticks since boot; two
processes that had the same pid never share it.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.linux import address_space, pidfd_calls, shortage
from vllm_magic.masking import mask_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INIT = 1  # the first process of a PID namespace
DEAD_STATES = frozenset("ZXx")
HIDDEN = 0  # in place of the start time of a process that /proc does not show
STOPPED_STATES = frozenset("Tt")  # stopped by a signal, by a debugger
_CHUNK = 16384  # bytes
LONGEST_TITLE = 4096  # bytes of a command line that are shown
# Seconds for a process to get the environment of the program that it executes, and seconds between two reads of it.
EXEC_LIMIT = 0.1
EXEC_INTERVAL = 0.001


class Identity(NamedTuple):
    """The identity of a process: the pid, and the start time in clock ticks since boot."""

    pid: int
    start: int


class Process(NamedTuple):
    """The content of ``/proc/PID/stat``; ``name`` is the comm, at most 15 characters."""

    identity: Identity
    name: str
    state: str
    parent: int
    group: int
    session: int
    threads: int

    @property
    def alive(self) -> bool:
        """Whether the process lives; True also for a zombie with living threads, which hold its files and its VRAM."""
        return self.state not in DEAD_STATES or self.threads > 1


Table = dict[int, Process]


def read(pid: int) -> Process | None:
    """Return the process that has this pid now; None if there is none.

    Raises:
        OSError: no descriptor or memory is free. All functions of this module that read /proc raise this, unless they only
            return text to be shown.
    """
    try:
        text = _content(f"/proc/{pid}/stat")
    except OSError as error:
        shortage.check(error)
        return None
    # The comm may contain blanks and brackets. It ends at the last bracket.
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


def own_identity() -> Identity:
    """Return the identity of this process; its start time is 0 if /proc does not show this process."""
    me = read(os.getpid())
    return me.identity if me else Identity(os.getpid(), 0)


def hidden(pid: int) -> Process | None:
    """Return the living process with this pid if /proc hides it (hidepid, proc(5)); None if /proc shows it, or it is gone.

    Its start time is `HIDDEN`, so it cannot be distinguished from another process with the same pid.
    """
    if read(pid) is not None:
        return None
    try:
        fd = pidfd_calls.open_pid(pid)
    except OSError as error:
        shortage.check(error)
        return None
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if poller.poll(0):  # the process has ended
            return None
        group, session = os.getpgid(pid), os.getsid(pid)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return Process(Identity(pid, HIDDEN), "a process that /proc hides", "?", 0, group, session, 1)


def hidden_children(pid: int) -> list[Process]:
    """Return the living children that /proc hides, of all threads of a process."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        shortage.check(error)
        return []
    found = {child for thread in threads for child in children(pid, int(thread))}
    return [process for child in sorted(found) if (process := hidden(child))]


def pids() -> list[int]:
    """Return the pids of all visible processes, including zombies."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def table() -> Table:
    """Return all visible processes, by pid, including zombies.

    This reads a file for each process; `sessions.near` reads few files.
    """
    return {process.identity.pid: process for process in map(read, pids()) if process}


def descendants(processes: Table, *roots: int) -> set[int]:
    """Return the pids of all descendants of ``roots``, including zombies. A root counts if it is below another root."""
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
    """Return the pids whose session id is ``session`` (setsid(2)), including zombies."""
    return {pid for pid, process in processes.items() if process.session == session}


def server_members(processes: Table, leader: Identity) -> set[int]:
    """Return the pids of the processes in a leader's session, and of all their descendants, including zombies.

    The id of the session is the leader's pid. While a process of the session lives, the kernel gives this pid to no new
    process (free_pid in kernel/pid.c waits for the last user of a pid). So if another process has it, the session is empty.
    """
    now = processes.get(leader.pid)
    if now is not None and now.identity != leader:
        return set()
    members = session_members(processes, leader.pid)
    return members | descendants(processes, leader.pid, *members)


def leader_of(pid: int, leaders: Mapping[int, Identity]) -> Identity | None:
    """Return the leader to whose server a process belongs, as `server_members` defines it; None if there is none.

    This reads only the process and its ancestors.

    Args:
        pid: the pid of the process.
        leaders: the leaders, by pid.
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
    """Return the pids of the children of one thread of a process, by default its main thread; empty if the kernel lists none."""
    try:
        with open(f"/proc/{pid}/task/{thread or pid}/children", encoding="ascii") as file:
            return {int(child) for child in file.read().split()}
    except OSError as error:
        shortage.check(error)
        return set()


def living(identity: Identity) -> Process | None:
    """Return this very process as it is now; None if it has ended.

    Of a hidden process only the pid is known. It counts as living while /proc hides a process with this pid.
    """
    if identity.start == HIDDEN:
        return hidden(identity.pid)
    process = read(identity.pid)
    return process if process is not None and process.identity == identity and process.alive else None


def is_alive(identity: Identity) -> bool:
    """Whether this very process lives."""
    return living(identity) is not None


def title(pid: int) -> str:
    """Return the command line as ``ps`` shows it, with masked keys; "" if the process is gone, or its memory cannot be read.

    For vLLM's processes this is the title that they have set. Of a command line with more than `LONGEST_TITLE` bytes, only
    the first arguments are returned.
    """
    try:
        text = address_space.read(pid, f"/proc/{pid}/cmdline", LONGEST_TITLE + 1)
    except OSError:
        return ""
    if len(text) > LONGEST_TITLE:
        text = text[:LONGEST_TITLE]
        # The argument that is cut is left out: it may be a key that cannot be recognised any more.
        text = text[: max(text.rfind(b"\0"), text.rfind(b" "), 0)]
    # A title that the process has set is followed by NUL bytes, up to the length of its arguments.
    words = text.rstrip(b"\0").decode("utf-8", "replace").split("\0")
    return " ".join(mask_words(words)).strip()


def umask() -> int | None:
    """Return the umask of this process, without changing it as os.umask does; None if /proc does not show it."""
    try:
        status = _content("/proc/self/status")
        return next(int(line.split()[1], 8) for line in status.splitlines() if line.startswith(b"Umask:"))
    except (OSError, StopIteration):
        return None


def shown_name(process: Process) -> str:
    """Return the title of a process, or its comm if it has no title.

    A process in state D is shown by its comm: it may hold the lock that a read of its command line waits for.
    """
    return process.name if process.state == "D" else title(process.identity.pid) or process.name


def folders(pid: int) -> Iterator[str]:
    """Yield the folders of the process in /proc: that of the process, then those of its threads.

    If the main thread has ended before the others, only the folders of the threads show memory, files and environment.
    """
    yield f"/proc/{pid}"
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        shortage.check(error)
        return
    for thread in threads:
        yield f"/proc/{pid}/task/{thread}"


def has_environment(pid: int, entry: bytes) -> bool:
    """Whether the process was started with the environment entry ``b"NAME=value"``; False if it cannot be read."""
    text = _environment(pid)
    return entry in text and entry in text.split(b"\0")


def environment(pid: int) -> dict[str, str]:
    """Return the environment with which the process was started; empty if it cannot be read."""
    entries = filter(None, _environment(pid).decode("utf-8", "replace").split("\0"))
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def _environment(pid: int) -> bytes:
    """Return the environment as /proc shows it; wait for a process that is just executing its program."""
    deadline = time.monotonic() + EXEC_LIMIT
    try:
        while not (text := _environ(pid)) and _is_executing(pid) and time.monotonic() < deadline:
            time.sleep(EXEC_INTERVAL)  # no event shows the end of execve
    except (PermissionError, TimeoutError):
        return b""
    return text


def _environ(pid: int) -> bytes:
    for folder in folders(pid):
        try:
            text = address_space.read(pid, f"{folder}/environ")
        except (PermissionError, TimeoutError):
            raise
        except OSError as error:
            shortage.check(error)
            continue
        if text:
            return text
    return b""


def _is_executing(pid: int) -> bool:
    """Whether the process has no environment yet, as during execve(2), or has just got its environment."""
    try:
        fields = _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError as error:
        shortage.check(error)
        return False
    size, begin, end = (int(fields[number]) for number in (20, 47, 48))  # vsize, env_start, env_end
    return size > 0 and (end == 0 or end > begin)


def open_files(pid: int) -> dict[str, str]:
    """Return the open files of a process; empty if they cannot be read.

    Returns:
        For each link in /proc, its target: a path, or ``socket:[inode]``.
    """
    found: dict[str, str] = {}
    for folder in folders(pid):
        try:
            names = os.listdir(f"{folder}/fd")
        except PermissionError:
            return found
        except OSError as error:
            shortage.check(error)
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
    """Whether this user may not see the open files of the process."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return True
    except OSError as error:
        shortage.check(error)
    return False


def _content(path: str) -> bytes:
    """Return the content of a file of /proc that does not show the memory of a process (see `address_space`).

    A scan reads thousands of such files, and Python's `open` alone takes as long as this function.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = chunk = os.read(fd, _CHUNK)
        while len(chunk) == _CHUNK:  # a shorter chunk is the last one
            chunk = os.read(fd, _CHUNK)
            text += chunk
        return text
    finally:
        os.close(fd)
