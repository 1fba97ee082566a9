"""Call functions that use a disk, so that a disk that does not answer holds up no caller.

A network file system whose server is gone, or a FUSE file system whose program waits for a network, lets a system call wait
as long as the disk is silent, and often not even SIGKILL ends the process (request_wait_answer in Linux's
fs/fuse/dev.c). A thread that waits so keeps its process from ending, and the process's descriptors open: a kernel could not
be restarted, and the guards would not notice its end. So on such a file system the functions are called in another
process (`disk_child`), and the caller stops waiting when the time is over. On a local file system, they are called directly.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import struct
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vllm_magic.linux import forks, path_parts, pidfd, python

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
LIMIT = 5.0  # seconds for a function; it takes milliseconds, but a disk and a machine may be busy
START_LIMIT = 30.0  # seconds for the process to start and to import the function
EXIT_LIMIT = 0.2  # seconds for a killed process to end
KNOWN_FOR = 1.0  # seconds for which the type of a path's file system is remembered
# File systems whose data is on this machine. Their disks may be slow, and a broken one returns errors.
LOCAL = frozenset(
    [
        "aufs",
        "bcachefs",
        "btrfs",
        "devtmpfs",
        "ecryptfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hugetlbfs",
        "iso9660",
        "jfs",
        "msdos",
        "nilfs2",
        "ntfs3",
        "overlay",
        "proc",
        "ramfs",
        "reiserfs",
        "rootfs",
        "squashfs",
        "sysfs",
        "tmpfs",
        "ubifs",
        "vfat",
        "xfs",
        "zfs",
    ]
)
_CHILD = Path(__file__).with_name("disk_child.py")
_PACKAGE = Path(__file__).parents[2]
_SIZE = struct.Struct("<I")


class _Silent(NamedTuple):
    """A process that waits for the disk of a path."""

    path: str
    process: _Process


class _Process:
    """A process that calls one function at a time.

    Raises:
        OSError: no process or descriptor is free.
    """

    def __init__(self) -> None:
        self._process = forks.spawn(
            [python.program(), "-I", "-S", _CHILD, _PACKAGE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal must not end it
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - see above
            forks.keep_out(pipe)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], limit: float) -> Any:
        """Return the result of the function, or raise its error.

        Raises:
            TimeoutError: there is no result after ``limit`` seconds.
            EOFError: the process was killed.
        """
        request = pickle.dumps((function, args))
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(_SIZE.pack(len(request)) + request)
        except OSError:
            raise EOFError from None
        self._read(1, time.monotonic() + START_LIMIT)
        deadline = time.monotonic() + limit
        (size,) = _SIZE.unpack(self._read(_SIZE.size, deadline))
        is_result, value = pickle.loads(self._read(size, deadline))  # noqa: S301 - from this package's own process
        if is_result:
            return value
        raise value

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101
        data = b""
        while len(data) < size:
            if not pidfd.readable([self._process.stdout.fileno()], max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = self._process.stdout.read(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended; it is reaped then."""
        return self._process.poll() is not None

    def give_up(self) -> None:
        """Kill the process, and do not wait long for its end: one that waits for a disk ends when the disk answers."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_LIMIT)


# There is no lock: a signal handler of the program may interrupt any thread that would hold it, and wait for a thread that
# needs it. Each single operation on these is atomic.
_idle: deque[_Process] = deque()
_silent: deque[_Silent] = deque()
_kinds: dict[str, tuple[float, bool]] = {}


def call(
    path: str | os.PathLike[str], function: Callable[..., _T], *args: object, limit: float = LIMIT
) -> _T:
    """Return the result of a function that uses the disk.

    Args:
        path: the path that the function uses.
        function: the function. On a disk that may hang, another process calls it: it is a function of a module, its arguments
            and its result can be pickled, and it takes and returns no descriptor.
        *args: its arguments.
        limit: seconds to wait. While a process still waits for the same disk, this does not wait.

    Raises:
        TimeoutError: the disk does not answer.
        OSError: no process can be started; or an error of the function.
        Exception: any error of the function.
    """
    path = os.path.abspath(path)
    if not may_hang(path):
        return function(*args)
    if _is_silent(path):
        raise _no_answer(path)
    result: _T = _call_elsewhere(path, function, args, limit)
    return result


def _call_elsewhere(path: str, function: Callable[..., Any], args: tuple[object, ...], limit: float) -> Any:
    while True:
        try:
            process, is_new = _idle.pop(), False
        except IndexError:
            process, is_new = _Process(), True
        try:
            result = process.call(function, args, limit)
        except TimeoutError as error:
            if error.args:  # of the function
                _idle.append(process)
                raise
            process.give_up()
            _silent.append(_Silent(path, process))
            raise _no_answer(path) from None
        except EOFError:  # somebody has killed it
            process.give_up()
            if is_new:
                raise OSError(f"the process that uses the disk of {path} was killed") from None
        except Exception:
            _idle.append(process)
            raise
        except BaseException:  # an interrupt: the next call must not get this result
            process.give_up()
            raise
        else:
            _idle.append(process)
            return result


def may_hang(path: str | os.PathLike[str]) -> bool:
    """Whether the path, or a link on it, is on a file system that is not `LOCAL`. This waits for no such file system."""
    path = os.path.abspath(path)
    known = _kinds.get(path)
    now = time.monotonic()
    if known is None or now >= known[0]:
        for expired in [other for other, (until, _) in list(_kinds.items()) if now >= until]:
            _kinds.pop(expired, None)
        _kinds[path] = known = (now + KNOWN_FOR, _may_hang(path))
    return known[1]


def _may_hang(path: str) -> bool:
    mounts = _mounts()
    try:
        return any(_type_of(part, mounts) not in LOCAL for part in path_parts.parts(path))
    except OSError:  # a part does not exist, or cannot be read: then nothing below it can hang
        return False


def _type_of(path: str, mounts: dict[str, str]) -> str:
    while path not in mounts:
        path = os.path.dirname(path)
        if path == "/":
            break
    return mounts.get(path, "")


def _mounts() -> dict[str, str]:
    """Return the types of the file systems, by the paths where they are mounted (proc_pid_mountinfo(5))."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            place, _, kind = line.partition(b" - ")
            name = place.split()[4].decode("unicode_escape").encode("latin-1")
            found[os.fsdecode(name)] = kind.split()[0].decode()  # a later line is mounted over an earlier one
    return found


def _is_silent(path: str) -> bool:
    """Whether a process still waits for the disk of this path, by the path or a folder above it that was used."""
    for silent in list(_silent):
        if silent.process.has_ended:
            with contextlib.suppress(ValueError):  # another thread was faster
                _silent.remove(silent)
        elif path == silent.path or path.startswith(f"{silent.path}/"):
            return True
    return False


def _no_answer(path: str) -> TimeoutError:
    return TimeoutError(f"the disk of {path} does not answer")


def _close() -> None:
    """End the processes that wait for nothing, when this process ends."""
    while _idle:
        _idle.pop().give_up()


atexit.register(_close)


def _in_child() -> None:
    """Forget the processes of the parent in a forked child."""
    _idle.clear()
    _silent.clear()


os.register_at_fork(after_in_child=_in_child)
