"""Entry point of the process that runs the reader of vLLM's flags, and writes the reader's output to a file.

    python -I -S flag_watch.py COUNT PIDFD... FILE LIMIT FAILURE WORD...

It runs the command WORD... as `watchdog` does, at the lowest priority, for at most LIMIT seconds. If the command succeeds, its
output becomes the content of FILE. If it fails, the JSON object FAILURE becomes the content, with the reason and the time
added. If it was killed, FILE does not change.
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
    # Appended after the standard library, so that no module of this folder hides a standard module.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from vllm_magic.children.watchdog import KILLED, arguments, watch

LARGEST_FILE = 2**26  # bytes of each file that the command writes; a table has some 100 kB
BUSY = 75  # exit code if another process runs the command for the same file already (EX_TEMPFAIL, sysexits.h)


def main() -> int:
    """Run the command, unless another process runs it already. Return the exit code of this process."""
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
    except OSError:  # a file system without locks: the last process wins
        pass
    if not _is_same_file(fd, new):  # another process has just finished: the open file has become its result
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


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
