"""Entry point of the process that has vLLM's flags read.

    python -I -S flag_watch.py COUNT PIDFD... FILE LIMIT FAILURE WORD...

It runs the words as `watchdog` does, for LIMIT seconds at most. Their output becomes the file if they end well. If they fail,
FAILURE, a JSON object, becomes the file, with the reason and the time; nothing does if they were killed. What it runs takes
only what nobody else wants of the processor.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # Behind the standard library, so that nothing in it can stand in for a standard module.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from vllm_magic.children.watchdog import KILLED, arguments, watch

LARGEST_FILE = 2**26  # bytes of each file that the words write; a table has some 100 kB


BUSY = (
    75  # exit code where another process runs the words for the same file already (EX_TEMPFAIL, sysexits.h)
)


def main() -> int:
    """Run the words, if nobody else does already. Return the exit code of this process."""
    others, (result_path, limit, failure, *words) = arguments(sys.argv[1:])
    result = Path(result_path)
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = LARGEST_FILE if hard == resource.RLIM_INFINITY else min(LARGEST_FILE, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    new = result.with_suffix(".new")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return BUSY
    except OSError:  # a file system without locks: the last one wins
        pass
    if not _is(fd, new):  # another one has finished meanwhile, and this is its result
        return BUSY
    try:
        os.ftruncate(fd, 0)
        began = time.monotonic()
        code = watch(others, words, float(limit), stdout=fd)
        is_late = time.monotonic() - began >= float(limit)
        if is_late or code not in (0, KILLED):
            reason = f"it took longer than {limit} s" if is_late else f"exit code {code}"
            content = {**json.loads(failure), "failure": f"the reader failed: {reason}", "at": time.time()}
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(content).encode(), 0)
        if is_late or code != KILLED:
            new.replace(result)
    finally:
        new.unlink(missing_ok=True)
    return 0


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
