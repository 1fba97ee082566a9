"""Read the files of /proc that show the memory of a process: its command line, environment and mappings.

For these files Linux takes the lock of the process's address space (mmap_lock). A thread that waits for a disk may hold this
lock for as long as the disk does not answer, for example for a model on a network drive that hangs; then such a read
does not return either, and only SIGKILL ends it. The state of the process does not show this: the main thread may
sleep, and a thread that waits for a FUSE file system sleeps too (request_wait_answer in Linux's fs/fuse/dev.c). So
each file is read in a thread of its own, and the caller stops waiting when the time is over.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque

LARGEST_FILE = 2**30  # bytes of a file
READ_LIMIT = 2.0  # seconds for a read; it takes microseconds, but the machine may be busy
NEXT_LIMIT = 0.2  # the same while a read for another process hangs: the same disk may hold up many processes
IDLE_LIMIT = 1.0  # seconds for which a thread waits for another read


class _ReadingThread:
    """A thread that reads one file at a time."""

    def __init__(self) -> None:
        self.paths: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="vllm-magic /proc", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                path, most = self.paths.get(timeout=IDLE_LIMIT)
            except queue.Empty:
                try:
                    _idle.remove(self)
                except ValueError:  # a caller has just taken it
                    continue
                return
            try:
                result: bytes | OSError = _content(path, most)
            except OSError as error:
                result = error
            self.results.put(result)
            if _hanging.pop(self, None) is not None:  # the caller does not wait any more
                return


# There is no lock: a signal handler of the program may interrupt any thread that would hold it, and wait for a thread that
# needs it. Each single operation on these is atomic.
_idle: deque[_ReadingThread] = deque()
_hanging: dict[_ReadingThread, int] = {}  # the pid whose memory each of these reads


def read(pid: int, path: str, most: int = LARGEST_FILE) -> bytes:
    """Return the content of a file of /proc, up to ``most`` bytes or a little more.

    Args:
        pid: the process.
        path: the file, in a folder of this process in /proc.
        most: bytes.

    Raises:
        TimeoutError: the address space of the process is locked.
        OSError: the file cannot be read.
    """
    hanging = list(_hanging.values())
    if pid in hanging:
        raise _locked(pid)
    try:
        reader = _idle.pop()
    except IndexError:
        try:
            reader = _ReadingThread()
        except RuntimeError:  # can't start new thread
            return _content(path, most)
    reader.paths.put((path, most))
    try:
        result = reader.results.get(timeout=NEXT_LIMIT if hanging else READ_LIMIT)
    except queue.Empty:
        _hanging[reader] = pid
        if reader.results.empty():
            raise _locked(pid) from None
        result = reader.results.get()  # it was read just now
        if _hanging.pop(reader, None) is not None:  # else the thread ends
            _idle.append(reader)
    else:
        _idle.append(reader)
    if isinstance(result, OSError):
        raise result
    return result


def _content(path: str, most: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        pieces, size = [], 0
        while size < most and (piece := file.read(2**16)):  # a piece may be short before the end (maps)
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)


def _locked(pid: int) -> TimeoutError:
    return TimeoutError(f"the memory of the process {pid} cannot be read: its address space is locked")


def _in_child() -> None:
    """Forget the threads of the parent: they are not in a forked child."""
    _idle.clear()
    _hanging.clear()


os.register_at_fork(after_in_child=_in_child)
