"""What goes wrong on request. All of it is bounded, and ends by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from . import log, tree, vram

if TYPE_CHECKING:
    from .options import Die, Flood, Options

FORKS = 300
FORK_LIFE_S = 60
NOBODY = 65534
_FLOOD_LIMIT = 1 << 30  # bytes


def phase(options: Options, who: str, when: str) -> None:
    """Die if `who` was asked to die in phase `when`, which begins now."""
    die = options.die
    if die is None or (die["who"], die["when"]) != (who, when):
        return
    if die.get("after_s"):
        timer = threading.Timer(die["after_s"], _die, (die,))
        timer.daemon = True
        timer.start()
    else:
        _die(die)


def _die(die: Die) -> None:
    for line in die.get("says", []):
        log.bare(line)
    if "signal" not in die:
        os._exit(die.get("rc", 1))
    os.kill(os.getpid(), die["signal"])


def hang(options: Options, where: str) -> None:
    """Hang until SIGUSR1, another signal that ends this process, or the end of its life, if asked to, in `where`."""
    if options.hang_in == where:
        signal.sigwaitinfo({signal.SIGUSR1})


def start_children(options: Options) -> list[tree.Child]:
    """Start the engine's extra children; return those that end with it."""
    if options.setsid_child:
        tree.spawn("Setsid", lambda: _stray(options))
    if options.daemonise:
        tree.spawn("Daemon", lambda: _double_fork(options)).reap()
    if options.unmarked:
        for leave in (True, False):
            tree.spawn("Stray", lambda leave=leave: _strip(options, leave)).reap()
    if options.other_user:
        tree.spawn("Other", _become_another)
    if options.fork_while_killed:
        tree.spawn("Forker", lambda: keep_forking(options))
    return [tree.spawn("Child", tree.end_with_parent) for _ in range(options.children)]


def _stray(options: Options) -> None:
    os.setsid()
    vram.hold(options.vram_child, 0)
    signal.pause()


def _double_fork(options: Options) -> None:
    tree.spawn("Daemon", lambda: _stray(options))


def _strip(options: Options, leave: bool) -> None:
    """Fork once more, and execute something without an environment, which holds VRAM for as long as it lives.

    What the fault matrix knows its own by is left in it.
    """
    if os.fork() == 0:
        if leave:
            os.setsid()
        tree.limit_life()
        vram.hold(options.vram_child, 0, kept_by_exec=True)
        kept = {name: value for name, value in os.environ.items() if name == "MATRIX_CELL"}
        os.execve("/bin/sleep", ["VLLM::Stray", str(options.life_s)], kept)


def _become_another() -> None:
    os.setresuid(NOBODY, NOBODY, NOBODY)
    signal.pause()


def keep_forking(options: Options) -> None:
    """Relay: every 20 ms the newest process forks its successor, FORKS times; all ignore SIGTERM.

    Most of them live for 2 s, every tenth for a minute. Whoever kills the ones it has listed races
    against the one that was forked since.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _await_trigger(options)
    for number in range(FORKS):
        signal.alarm(FORK_LIFE_S if number % 10 == 0 else 2)
        time.sleep(0.02)
        if os.fork():
            break
    while True:
        signal.pause()


def start_log_faults(options: Options) -> None:
    """Begin what `log_bytes` and `log_flood` ask for."""
    if options.log_bytes:
        log.write(
            1, b"\xff\xfe\x00 \x1b[31mred\x1b[0m \x1b]0;title\x07 <script>alert(1)</script> &amp; \r\xc3\n"
        )
    if options.log_flood is not None:
        threading.Thread(target=_flood, args=(options, options.log_flood), daemon=True).start()


def _await_trigger(options: Options) -> None:
    if options.trigger is not None:
        os.close(os.open(options.trigger, os.O_RDONLY | os.O_CLOEXEC))  # returns when there is a writer


def _flood(options: Options, flood: Flood) -> None:
    _await_trigger(options)
    text = b"flood " + b"x" * 193 + (b"\n" if flood.get("newline", True) else b"x")
    start = time.monotonic()
    rate = flood["bytes_per_s"] / len(text)
    total = int(min(rate * flood["seconds"], _FLOOD_LIMIT / len(text)))
    written = 0
    while written < total:
        due = min(int((time.monotonic() - start) * rate), total)
        log.write(1, text * (due - written))
        written = due
        time.sleep(0.01)
