"""The ways to die."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from . import hosts, parts, scarcity
from .cells import Cell, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stage import Stage

SLEEP = "import time; time.sleep(300)"
C_LOOP = "sum(range(10**12))"  # holds the GIL and hears no signal, for longer than anyone waits
SWALLOW = f"while True:\n    try:\n        {SLEEP}\n    except KeyboardInterrupt: pass"
HANDLER = f"import signal; signal.signal(signal.SIGTERM, lambda *_: None)\n{C_LOOP}"
THREAD = "inside.begin(threaded=True)"
FORKED = (
    "import multiprocessing\ninside.begin()\n"
    "context = multiprocessing.get_context('fork')\n"
    "children = [context.Process(target=__import__('time').sleep, args=(120,)) for _ in range(3)]\n"
    "for child in children: child.start()"
)
SEGFAULT = "import ctypes; ctypes.string_at(0)"
EXECV = "import os; os.execv('/bin/sleep', ['sleep', '120'])"


def _nothing(_stage: Stage) -> None:
    pass


def _always(_cell: Cell) -> bool:
    return True


class Seen(str, Enum):
    """What the guards see of a death. Those of one class they cannot tell apart, so one of them is tried in full."""

    ASKED = "the kernel says stop, and ends"
    GONE = "the kernel's pidfd and socket end, and nothing is said"
    SOCKET = "the kernel's socket ends alone"
    FORKED = "the kernel ends, and a child that it forked lives on"
    LEADER = "the leader ends"
    OUTER = "the outer guard ends"
    INNER = "the inner guard ends"
    KERNEL_AND_OUTER = "the kernel and the outer guard end at once"
    KERNEL_AND_INNER = "the kernel and the inner guard end at once"
    NOTHING = "nothing: no guard is left, or none that works"


@dataclass(frozen=True)
class Death:
    """A way to die.

    Attributes:
        name: for the command line.
        label: for the table.
        group: the heading above it there.
        host: where the servers are started from.
        act: what the stage does; it may return the time (`time.monotonic`) from which on the clock runs, which
            is otherwise the host's end.
        begin: code that starts the servers, where that is not simply done.
        ending: code that the host runs when the death has come.
        prepare: done before the host is started.
        before: done just before the host goes on to its ending.
        concerns: the cells to which this death can happen.
        host_survives: the host goes on.
        collects: it goes on collecting its dead children.
        limit: seconds for the host to end.
        settle: seconds until the judgement is final; 0 is the method's own limit.
        today: whether it can happen to the methods without guards too.
        survivors: whether something is expected to be left.
        seen: its class.
        in_full: whether it is the one death of its class that is tried with all cells; the other deaths are tried with
            those of `cells.pairs`.
    """

    name: str
    label: str
    group: str
    host: type[hosts.Host]
    act: Callable[[Stage], float | None] = _nothing
    begin: str = ""
    ending: str = ""
    prepare: Callable[[Stage], None] = _nothing
    before: Callable[[Stage], None] = _nothing
    concerns: Callable[[Cell], bool] = _always
    host_survives: bool = False
    collects: bool = True
    limit: float = 60.0
    settle: float = 0.0
    today: bool = True
    survivors: bool = False
    seen: Seen = Seen.GONE
    in_full: bool = False


def _signal(number: int) -> Callable[[Stage], None]:
    return lambda stage: os.kill(stage.host.pid, number)


def _shut_down(stage: Stage) -> None:
    _kernel(stage).manager.shutdown_kernel()


def _shut_down_now(stage: Stage) -> None:
    _kernel(stage).manager.shutdown_kernel(now=True)


def _restart(stage: Stage) -> None:
    _kernel(stage).manager.restart_kernel()


def _kernel(stage: Stage) -> hosts.Kernel:
    assert isinstance(stage.host, hosts.Kernel)
    return stage.host


def _delete(stage: Stage) -> None:
    _server(stage).ask("DELETE", _server(stage).kernel_url)


def _restart_over_rest(stage: Stage) -> None:
    _server(stage).ask("POST", _server(stage).kernel_url + "/restart", {})


def _end_server(number: int) -> Callable[[Stage], None]:
    return lambda stage: _server(stage).server.send_signal(number)


def _kill_server_of_busy_kernel(stage: Stage) -> None:
    """The kernel stays, for longer than anyone waits: that is its user's affair, until it ends."""
    _server(stage).server.kill()
    _server(stage).server.wait(hosts.ENDED)
    threading.Event().wait(2.0)
    assert not stage.ends.wait([stage.host_identity], 0)
    os.kill(stage.host.pid, signal.SIGKILL)


def _server(stage: Stage) -> hosts.JupyterServer:
    assert isinstance(stage.host, hosts.JupyterServer)
    return stage.host


def _end_notebook(stage: Stage) -> None:
    assert isinstance(stage.host, hosts.Notebook)
    stage.host.process.terminate()


def _type(text: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        assert isinstance(stage.host, hosts.Terminal)
        stage.host.terminal.write(text.encode())

    return act


def _hang_up(stage: Stage) -> None:
    assert isinstance(stage.host, hosts.Terminal)
    stage.host.hang_up()


def _jupyter() -> list[Death]:
    def death(name: str, label: str, host: type[hosts.Host] = hosts.Kernel, **more: Any) -> Death:
        return Death(name, label, "Jupyter", host, **more)

    asked = Seen.ASKED
    busy = {
        "idle": ("an idle kernel", "", asked),
        "sleep": ("a kernel in `time.sleep`", SLEEP, asked),
        "c-loop": ("a kernel in a C loop", C_LOOP, Seen.GONE),
        "swallow": ("a cell that swallows KeyboardInterrupt", SWALLOW, Seen.GONE),
        "handler": ("a C loop, and a Python SIGTERM handler", HANDLER, Seen.GONE),
    }
    return [
        *(
            death(
                f"shutdown-{key}",
                f"shutdown of {label}",
                act=_shut_down,
                ending=code,
                seen=seen,
                in_full=key == "idle",
            )
            for key, (label, code, seen) in busy.items()
        ),
        *(
            death(
                f"restart-{key}",
                f"restart of {label}",
                act=_restart,
                ending=code,
                seen=seen,
                today=key == "idle",
            )
            for key, (label, code, seen) in busy.items()
        ),
        death("shutdown-now", "`shutdown_kernel(now=True)`", act=_shut_down_now),
        death("exit", "`exit()` in a cell", ending="exit()", seen=asked),
        death("rest-delete", "REST: DELETE of the kernel", hosts.JupyterServer, act=_delete, seen=asked),
        death("rest-restart", "REST: restart", hosts.JupyterServer, act=_restart_over_rest, seen=asked),
        death(
            "server-term",
            "Jupyter server SIGTERM",
            hosts.JupyterServer,
            act=_end_server(signal.SIGTERM),
            seen=asked,
        ),
        death("server-int", "Jupyter server SIGINT", hosts.JupyterServer, act=_end_server(signal.SIGINT)),
        death("server-kill", "Jupyter server SIGKILL", hosts.JupyterServer, act=_end_server(signal.SIGKILL)),
        death(
            "server-kill-c-loop",
            "Jupyter server SIGKILL, then the kernel that is in a C loop",
            hosts.JupyterServer,
            act=_kill_server_of_busy_kernel,
            ending=C_LOOP,
        ),
        death("nbclient", "nbclient finishes", hosts.NbClient, seen=asked),
        death("nbconvert", "nbconvert finishes", hosts.NbConvert, seen=asked),
        death("nbconvert-term", "nbconvert SIGTERM", hosts.NbConvert, act=_end_notebook, ending=SLEEP),
        death("ipython-exit", "terminal ipython: `exit`", hosts.Terminal, act=_type("exit\n")),
        death("ipython-eof", "terminal ipython: ^D", hosts.Terminal, act=_type("\x04"), seen=asked),
        death("ipython-hangup", "terminal ipython: hangup", hosts.Terminal, act=_hang_up),
        death("ipython-term", "terminal ipython: SIGTERM", hosts.Terminal, act=_signal(signal.SIGTERM)),
    ]


def _kernel_deaths() -> list[Death]:
    def death(name: str, label: str, host: type[hosts.Host] = hosts.Script, **more: Any) -> Death:
        return Death(name, label, "The kernel", host, **more)

    kill = _signal(signal.SIGKILL)
    return [
        death("sigkill", "SIGKILL", hosts.Kernel, act=kill, in_full=True),
        death("sigterm", "SIGTERM", hosts.Kernel, act=_signal(signal.SIGTERM)),
        death("sighup", "SIGHUP", hosts.Kernel, act=_signal(signal.SIGHUP)),
        death("sigsegv", "SIGSEGV", hosts.Kernel, ending=SEGFAULT),
        death("os-exit", "`os._exit`", hosts.Kernel, ending="import os; os._exit(0)"),
        death(
            "execv",
            "`os.execv`",
            hosts.Kernel,
            ending=EXECV,
            host_survives=True,
            collects=False,
            seen=Seen.SOCKET,
            in_full=True,
        ),
        death(
            "forked",
            "SIGKILL, with multiprocessing children",
            begin=FORKED,
            act=kill,
            seen=Seen.FORKED,
            in_full=True,
        ),
        death("thread", "SIGKILL, started from a thread that has ended", begin=THREAD, act=kill),
        death("nohup", "SIGTERM under `nohup`", hosts.Nohup, act=_signal(signal.SIGTERM)),
        death("memory", "out of memory, in a cgroup", **scarcity.MEMORY),
        death("descriptors", "exit with no free descriptor", seen=Seen.ASKED, **scarcity.DESCRIPTORS),
        death("disk", "SIGKILL, with a full disk under the state folder", today=False, **scarcity.DISK),
        death("folder", "SIGKILL, after the state folder was deleted", today=False, **scarcity.FOLDER),
    ]


def _part_deaths() -> list[Death]:
    def death(name: str, label: str, act: Callable[[Stage], float | None], **more: Any) -> Death:
        return Death(name, label, "Parts of the server", hosts.Script, act=act, **more)

    def has_engine(cell: Cell) -> bool:
        return cell.phase not in (Phase.WAITING, Phase.IMPORTING)

    def without_requests(cell: Cell) -> bool:
        """A sweep goes from one orphan to the next; with their leaders the requests are gone in any case."""
        return cell.phase in (Phase.WAITING, Phase.IMPORTING, Phase.INITIALISING, Phase.IDLE)

    return [
        death(
            "leader", "leader SIGKILL", parts.kill_leaders, host_survives=True, seen=Seen.LEADER, in_full=True
        ),
        death(
            "engine",
            "EngineCore SIGKILL",
            parts.kill_engines,
            host_survives=True,
            concerns=has_engine,
            seen=Seen.LEADER,
        ),
        death(
            "worker",
            "Worker SIGKILL",
            parts.kill_workers,
            host_survives=True,
            concerns=has_engine,
            seen=Seen.LEADER,
        ),
        death(
            "engine-stopped", "kernel SIGKILL, EngineCore SIGSTOP", parts.stop_engines, concerns=has_engine
        ),
        death(
            "outer",
            "outer guard SIGKILL",
            parts.kill_outer,
            host_survives=True,
            today=False,
            seen=Seen.OUTER,
            in_full=True,
        ),
        death(
            "inner",
            "inner guard SIGKILL",
            parts.kill_inner,
            host_survives=True,
            today=False,
            seen=Seen.INNER,
            in_full=True,
        ),
        death(
            "kernel-outer",
            "kernel and outer guard at once",
            parts.kill_kernel_and_outer,
            today=False,
            seen=Seen.KERNEL_AND_OUTER,
            in_full=True,
        ),
        death(
            "kernel-inner",
            "kernel and inner guard at once",
            parts.kill_kernel_and_inner,
            today=False,
            seen=Seen.KERNEL_AND_INNER,
            in_full=True,
        ),
        death(
            "kernel-guards",
            "kernel and both guards at once, before the next `%load_ext`",
            parts.kill_kernel_and_guards,
            today=False,
            survivors=True,
            settle=6.0,
            seen=Seen.NOTHING,
        ),
        death(
            "kernel-guards-swept",
            "the same, after the next `%load_ext`",
            parts.kill_kernel_and_guards_and_sweep,
            today=False,
            settle=200.0,
            concerns=without_requests,
            seen=Seen.NOTHING,
            in_full=True,
        ),
        death(
            "guards-stopped-swept",
            "both guards SIGSTOP, then the kernel, after the next `%load_ext`",
            parts.stop_guards_and_kill_kernel_and_sweep,
            today=False,
            settle=200.0,
            seen=Seen.NOTHING,
        ),
    ]


DEATHS = (*_jupyter(), *_kernel_deaths(), *_part_deaths())
