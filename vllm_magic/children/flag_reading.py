"""Has the flags of a vLLM read in the background, once for each executable: by vLLM's own Python, which takes ten seconds."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.children.watched import WatchedProcess
from vllm_magic.engine import cache, executable
from vllm_magic.engine.flags import flag_table

if TYPE_CHECKING:
    from vllm_magic.engine.flags.flag_table import FlagTable

LIMIT = 900.0  # seconds; on a disk that is cold, and a machine that has better things to do, it takes long
AGAIN = 600.0  # seconds after which one that has failed is tried again

_WATCH = Path(__file__).with_name("flag_watch.py")
_READER = Path(flag_table.__file__).with_name("reader_child.py")

_beginning = threading.Lock()  # nobody waits for it: a signal handler of the program may interrupt its holder
_builders: dict[str, tuple[float, WatchedProcess]] = {}


def table(path: str) -> FlagTable | None:
    """The flags of the vLLM at this absolute path; where they are not known for certain, they begin to be read.

    That ends with this process, or with `end`. It is not begun where it is under way, has failed not long ago, or
    cannot be done: for a wrapper of which is not known what it runs, or without a place for the result.
    """
    python = None if flag_table.load(path, certain=True) else executable.interpreter(path)
    if python and _beginning.acquire(blocking=False):  # else another call will begin it
        try:
            with contextlib.suppress(OSError):
                _begin(path, python)
        finally:
            _beginning.release()
    return flag_table.load(path)


def _begin(path: str, python: tuple[str, ...]) -> None:
    since, builder = _builders.get(path, (0.0, None))
    if builder is not None and (not builder.has_ended() or time.monotonic() < since + AGAIN):
        return
    result = cache.make(flag_table.KIND) / flag_table.file_name(path)
    words = [*python, str(_READER), str(flag_table.SCHEMA), path]
    _builders[path] = time.monotonic(), _spawn(str(result), words)


def end() -> None:
    """End what is under way."""
    ended = []
    with contextlib.suppress(KeyError):  # there is none any more
        while True:
            ended.append(_builders.popitem()[1][1])
    for builder in ended:
        builder.ask_to_end()
    for builder in ended:
        builder.end()


def _spawn(result: str, words: list[str]) -> WatchedProcess:
    return WatchedProcess(
        _WATCH,
        (result, str(LIMIT), *words),
        # No GPU: the flags do not depend on it, and it must not hold memory that a release waits for. And no network.
        {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
