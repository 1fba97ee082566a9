"""Run as a program: uses this package, and forks in the middle of each start of another program.

    python forking.py HOW WHAT

HOW: "python" forks as `multiprocessing` does, "c" as C code may, without Python's hooks, "never" does not fork. The
children live until the program ends.
WHAT: the name of a function below. The test checks the lines that it prints.
"""

from __future__ import annotations

import _posixsubprocess
import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import vllm_magic
from vllm_magic import ledger
from vllm_magic.children.child import ChildProcess
from vllm_magic.guard.record import Phase

LIBC = ctypes.PyDLL(None)
WINDOW = 1.0  # seconds that a start waits for the fork, which the package must hold off meanwhile
children: list[int] = []


def fork(how: str) -> None:
    pid = os.fork() if how == "python" else LIBC.fork()
    if pid == 0:
        while True:
            LIBC.pause()
    children.append(pid)


def fork_amid(how: str) -> None:
    """Fork in another thread in the middle of `subprocess.Popen`, when its pipes are open."""
    if how == "c":
        # This is before Popen opens the pipe that tells it that the program runs: a fork that copies it cannot be prevented.
        sys.addaudithook(lambda event, _: fork(how) if event == "subprocess.Popen" else None)
        return
    holder, name = (
        (subprocess, "_fork_exec") if hasattr(subprocess, "_fork_exec") else (_posixsubprocess, "fork_exec")
    )
    real = getattr(holder, name)

    def forking(*words: object) -> int:
        thread = threading.Thread(target=fork, args=(how,))
        thread.start()
        thread.join(WINDOW)
        return real(*words)

    setattr(holder, name, forking)


@atexit.register
def end() -> None:
    for pid in children:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def say(*words: object) -> None:
    print(*words, flush=True)


def stop() -> None:
    server = vllm_magic.start("tiny")
    say(server.state.value)
    say(server.stop().verified)


def lose_guards() -> None:
    server = vllm_magic.start("tiny")
    (entry,) = ledger.entries()
    while entry.record.phase != Phase.READY:
        time.sleep(0.02)
        (entry,) = ledger.entries()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid, _ in (entry.record.inner, entry.record.outer):
            os.kill(pid, number)
    while not server.state.over:
        time.sleep(0.02)
    say(server.state.value)
    say(server.stop().verified)


def child() -> None:
    with contextlib.closing(ChildProcess([sys.executable, "-c", "print('said')"], {})) as program:
        for lines in program.lines(1.0):
            for line in lines:
                say(line)
        say(program.exit_code())


def inherit() -> None:
    """Print which of this process's own descriptors a forked child has, and whether the child can start a program."""
    from vllm_magic.linux import forks

    server = vllm_magic.start("tiny")
    ours = [one.fileno() for one in forks._ours if one.fileno() >= 0]
    pid = os.fork()
    if pid == 0:
        say(len(ours) > 0, *{os.readlink(f"/proc/self/fd/{fd}") for fd in ours}, forks.spawn(["true"]).wait())
        os._exit(0)
    os.waitpid(pid, 0)
    say(server.stop().verified)


def hang() -> None:
    """Fork during a start that hangs: the fork does not wait for ever, and neither does the next start."""
    from vllm_magic.linux import forks

    forks.START_LIMIT = 0.1
    forks._starts.add(object())
    pid = os.fork()
    if pid == 0:
        os._exit(forks.spawn(["true"]).wait())
    say(os.waitpid(pid, 0)[1], forks.spawn(["true"]).wait())


def pools() -> None:
    """Make pools while threads start servers; the pools live until all servers have ended."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    made, over = [], threading.Event()

    def start(name: str) -> None:
        for _ in range(2):
            server = vllm_magic.start("tiny", name=name)
            server.stop()

    threads = [threading.Thread(target=start, args=(f"s{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and len(made) < 20:
        made.append(context.Pool(1))
        over.wait(0.05)
    for thread in threads:
        thread.join()
    say(len(made) > 0)
    for pool in made:
        pool.terminate()


if __name__ == "__main__":
    fork_amid(sys.argv[1]) if sys.argv[1] != "never" else None
    globals()[sys.argv[2]]()
