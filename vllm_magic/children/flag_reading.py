"""Read the flags of a vLLM in the background, once for each executable. vLLM's own Python reads them; it takes ten seconds."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.children import flag_watch
from vllm_magic.children.watched import WatchedProcess
from vllm_magic.engine import cache, executable
from vllm_magic.engine.flags import flag_table

if TYPE_CHECKING:
    from vllm_magic.engine.flags.flag_table import FlagTable

READ_LIMIT = 900.0  # seconds; reading takes long from a cold disk, and on a busy machine
RENEWAL = 600.0  # seconds after which the flags are read again if the last result has become invalid
CHECK_INTERVAL = 0.1  # seconds between checks whether a reading has ended
WAIT_LIMIT = 60.0  # seconds that a reader may take longer than its own limit
RETRY = 86400.0  # seconds after which the flags are read again if the reader left no result

_WATCH = Path(flag_watch.__file__)
_READER = Path(flag_table.__file__).with_name("reader_child.py")


class _Attempt(NamedTuple):
    """One reading, which is under way or over.

    Attributes:
        since: when it began, by `time.monotonic`.
        process: the process that reads.
        before: the time of the last change of the result before this reading; 0.0 if there was no result.
    """

    since: float
    process: WatchedProcess
    before: float


# No thread waits for this lock: a signal handler of the program may interrupt its holder.
_beginning = threading.Lock()
_attempts: dict[str, _Attempt] = {}


def table(path: str) -> FlagTable | None:
    """Return the flags of the vLLM at this absolute path; None if they are not known. Begin to read them if they are not certain.

    The reading ends with this process, or with `end`. It does not begin if it is under way or has failed before
    (`flag_table.failure`), if the executable is a wrapper whose Python is not known, or if the result cannot be stored.
    """
    is_known = flag_table.load(path, certain=True) or flag_table.failure(path)
    python = None if is_known else executable.interpreter(path)
    if python and _beginning.acquire(blocking=False):  # otherwise another call is beginning a reading
        try:
            with contextlib.suppress(OSError):
                _begin(path, python)
        finally:
            _beginning.release()
    return flag_table.load(path)


def read(path: str) -> FlagTable | None:
    """Read the flags of the vLLM at this absolute path now, and wait for the end. An interrupt ends the reading.

    Returns:
        The flags; None if they cannot be read.
    """
    pause, deadline = threading.Event(), time.monotonic() + READ_LIMIT + WAIT_LIMIT
    found = table(path)
    attempt = _attempts.get(path)
    try:
        while attempt is not None and not attempt.process.has_ended() and time.monotonic() < deadline:
            pause.wait(CHECK_INTERVAL)
    except BaseException:
        if attempt is not None:
            attempt.process.end()
        raise
    return flag_table.load(path) or found


def _begin(path: str, python: tuple[str, ...]) -> None:
    name = flag_table.file_name(path)
    attempt = _attempts.get(path)
    if attempt is not None and not _is_over(attempt, name):
        return
    result = cache.make(flag_table.KIND) / name
    words = [*python, str(_READER), str(flag_table.SCHEMA), path]
    before = cache.modified(flag_table.KIND, name)
    _attempts[path] = _Attempt(time.monotonic(), _spawn(path, result, words), before)


def _is_over(attempt: _Attempt, name: str) -> bool:
    """Whether an attempt has ended, and so long ago that the flags may be read again."""
    if not attempt.process.has_ended():
        return False
    # With `BUSY`, a process of another kernel was reading the flags. It may have ended with its kernel, without a result.
    may_retry_soon = (
        cache.modified(flag_table.KIND, name) != attempt.before
        or attempt.process.process.returncode == flag_watch.BUSY
    )
    return time.monotonic() >= attempt.since + (RENEWAL if may_retry_soon else RETRY)


def end() -> None:
    """End the readings that are under way."""
    ended = []
    with contextlib.suppress(KeyError):  # the last one was removed
        while True:
            ended.append(_attempts.popitem()[1].process)
    for process in ended:
        process.ask_to_end()
    for process in ended:
        process.end()


def _spawn(path: str, result: Path, words: list[str]) -> WatchedProcess:
    status = Path(path).stat()
    # `flag_watch` writes this as the result if the reader fails without a result of its own.
    failure = {
        "schema": flag_table.SCHEMA,
        "sources": [[path, status.st_mtime_ns, status.st_size]],
        "places": [],
    }
    return WatchedProcess(
        _WATCH,
        (str(result), str(READ_LIMIT), json.dumps(failure), *words),
        # No GPU: the flags do not depend on it, and it must not hold memory that a release waits for. And no network.
        {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
