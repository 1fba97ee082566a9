"""Run as a program: uses this package while somebody forks in the middle of each start of a program.

    python forking.py HOW WHAT

HOW: "python" forks as `multiprocessing` does, "c" as C code may, behind Python's back. The children live until the end.
WHAT: a function below. Each line that it prints is one of the test's.
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
from vllm_magic.children.child import Errand
from vllm_magic.guard.record import Phase

LIBC = ctypes.PyDLL(None)
WINDOW = 1.0  # seconds that a start is held up for the fork, which must not come through
children: list[int] = []


def fork(how: str) -> None:
    pid = os.fork() if how == "python" else LIBC.fork()
    if pid == 0:
        while True:
            LIBC.pause()
    children.append(pid)


def fork_amid(how: str) -> None:
    """Fork in another thread in the middle of `subprocess.Popen`: its pipes are open then."""
    if how == "c":
        # Before the pipe by which Popen hears that the program runs: nobody could help it.
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


def errand() -> None:
    with contextlib.closing(Errand([sys.executable, "-c", "print('said')"], {})) as errand:
        for lines in errand.lines(1.0):
            for line in lines:
                say(line)
        say(errand.exit_code())


def inherit() -> None:
    """What a child that is forked now has of what is this process's alone, and whether it can start something."""
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
    """A start that hangs: no fork waits for ever, and the next start is not held up by that one."""
    from vllm_magic.linux import forks

    forks.PATIENCE = 0.1
    forks._starts += 1
    pid = os.fork()
    if pid == 0:
        os._exit(forks.spawn(["true"]).wait())
    say(os.waitpid(pid, 0)[1], forks.spawn(["true"]).wait())


def pools() -> None:
    """Pools are made while servers start from threads, and live until all of it is over."""
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
