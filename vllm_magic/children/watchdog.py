"""Entry point of a process that runs a command for the kernel: ``python -I -S watchdog.py KERNEL_PIDFD WORD...``.

The words are the command. When the command or the kernel ends, or on SIGTERM, the command's whole process group is killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    # Appended after the standard library, so that no module of this folder hides a standard module.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from vllm_magic.linux import pidfd_calls
from vllm_magic.linux.prctl import die_with_parent


def main() -> int:
    """Run the command and return its exit code, or 128 plus the number of the signal that ended it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    kernel, words = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(kernel, False)
    parent = os.getpid()

    def tie() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    child = subprocess.Popen(words, start_new_session=True, preexec_fn=tie)  # noqa: PLW1509 - this process has one thread
    try:
        poller = select.poll()
        poller.register(kernel, select.POLLIN)
        poller.register(pidfd_calls.open_pid(child.pid), select.POLLIN)
        poller.poll()
    finally:
        os.killpg(child.pid, signal.SIGKILL)  # the child is not waited for yet, so its pid is not reused
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
