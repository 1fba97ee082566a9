"""Entry point of the process that has vLLM's flags read: ``python -I -S flag_watch.py KERNEL_PIDFD FILE LIMIT WORD...``.

It runs the words, whose output becomes the file, and ends them with all of their process group when the kernel ends,
or after LIMIT seconds. What it runs dies with it, and takes only what nobody else wants of the processor.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    # Behind the standard library, so that nothing in it can stand in for a standard module.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from vllm_magic.linux import pidfd_calls
from vllm_magic.linux.prctl import die_with_parent


def main() -> None:
    """Run the words, if nobody else does already."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kernel, result, limit, words = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    os.nice(19)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    new = result.with_suffix(".new")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:  # a file system without locks: the last one wins
        pass
    if not _is(fd, new):  # another one has finished meanwhile, and this is its result
        return
    try:
        os.ftruncate(fd, 0)
        if _run(words, fd, kernel, limit):
            new.replace(result)
    finally:
        new.unlink(missing_ok=True)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _run(words: list[str], output: int, kernel: int, limit: float) -> bool:
    """Whether the words ended well, and in time; nothing of them is left."""
    parent = os.getpid()

    def tie() -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=tie,  # noqa: PLW1509 - this process has one thread
    )
    try:
        ended = pidfd_calls.open_pid(child.pid)
        poller = select.poll()
        poller.register(kernel, select.POLLIN)
        poller.register(ended, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(limit * 1000)}
    finally:
        os.killpg(child.pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
    return child.wait() == 0 and ready == {ended}


if __name__ == "__main__":
    main()
