"""What there is to deaths beyond the fault matrix: what comes after them, and what the kernel makes of them.

The kernels are real, under jupyter_client's KernelManager. What is measured is that everything is gone; the
time it took is bounded generously, since a busy machine is no fault of ours.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from by_hand import until
from jupyter_client.manager import KernelManager

from vllm_magic import ledger
from vllm_magic.errors import VllmMagicError
from vllm_magic.guard import record as records
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity

LIMIT = 20.0

STUBBORN = {"ignore_sigterm": True, "setsid_child": True, "daemonise": True}


class Kernel:
    """A kernel with a server."""

    def __init__(self, env: dict[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3", transport_encryption="auto")
        self.manager.start_kernel(env=env)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> str:
        """Run code, and return its output."""
        printed = []

        def hear(message) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
            if message["msg_type"] == "error":
                printed.append("\n".join(message["content"]["traceback"]))

        self.client.execute_interactive(code, timeout=120, output_hook=hear)
        return "".join(printed)

    def send(self, code: str) -> str:
        """Run code without waiting for it; return the id of the request.

        Its error ends no request that follows: ipykernel would abort one that comes just after the reply.
        """
        return self.client.execute(code, stop_on_error=False)

    @property
    def pid(self) -> int:
        return self.manager.provisioner.pid

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(home, executable):
    """A kernel with a server which does not want to end."""
    env = {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable, "STAND_IN": json.dumps(STUBBORN)}
    kernel = Kernel(env)
    kernel.run("%load_ext vllm_magic\ns = %vllm start tiny")
    yield kernel
    kernel.close()


def family(kernel: Kernel) -> set[Identity]:
    """The guards and everything below them."""
    table = processes.table()
    found = {table[pid].identity for pid in processes.descendants(table, kernel.pid) if table[pid].alive}
    assert len(found) >= 8, found
    return found


def assert_gone(everyone: set[Identity], traces) -> None:
    began = time.monotonic()
    assert pidfd.wait_for_all(everyone, LIMIT) == set()
    while traces.processes() or traces.files() or traces.shared_memory():
        assert time.monotonic() - began < LIMIT
        time.sleep(0.02)
    print(f"everything gone after {time.monotonic() - began:.2f} s")
    traces.check()


def test_a_killed_process_group(kernel, traces):
    everyone = family(kernel)
    os.killpg(kernel.pid, signal.SIGKILL)
    assert_gone(everyone, traces)


@pytest.mark.parametrize("now", [False, True])
def test_a_restart(kernel, traces, now):
    everyone = family(kernel)
    kernel.manager.restart_kernel(now=now)
    assert_gone(everyone, traces)
    kernel.client.wait_for_ready(timeout=60)
    assert "No server runs" in kernel.run(
        "%load_ext vllm_magic\nprint(get_ipython().run_line_magic('vllm', ''))"
    )
    assert kernel.run("s = %vllm start tiny\nprint(s.state == 'ready')").endswith("True\n")
    everyone = family(kernel)
    kernel.manager.shutdown_kernel()
    assert_gone(everyone, traces)


def test_the_interrupt_button(kernel, traces):
    """During a start, it releases that server, reports that, and leaves the others alone."""
    asked = kernel.send('%vllm start other --env \'STAND_IN={"hang_in": "init"}\'')
    time.sleep(2.0)
    kernel.manager.interrupt_kernel()
    reply = kernel.client.get_shell_msg(timeout=60)
    while reply["parent_header"]["msg_id"] != asked:
        reply = kernel.client.get_shell_msg(timeout=60)
    assert reply["content"]["ename"] == "StartInterrupted"
    assert "was interrupted; it was released" in reply["content"]["evalue"]
    assert kernel.run("import vllm_magic; print(*vllm_magic.servers())") == "tiny\n"
    everyone = family(kernel)
    kernel.manager.shutdown_kernel()
    assert_gone(everyone, traces)


@pytest.fixture
def server(manager, spec):
    """A server of this process, with children that do not end by themselves."""
    return manager.start(spec(faults=STUBBORN), timeout=60).server


def guards(server) -> tuple[Identity, Identity]:
    """Return the outer and the inner guard."""
    inner = processes.read(server.processes()[0].parent)
    return processes.read(inner.parent).identity, inner.identity


def everyone_of(server) -> set[Identity]:
    outer, _ = guards(server)
    table = processes.table()
    return {table[pid].identity for pid in processes.descendants(table, outer.pid) if table[pid].alive} | {
        outer
    }


@pytest.mark.parametrize("victims", [("leader",), ("outer",), ("inner",), ("outer", "inner")], ids=str)
@pytest.mark.parametrize("when", ["ready", "stopped by SIGSTOP"])
def test_one_of_the_server_is_killed(server, traces, victims, when):
    outer, inner = guards(server)
    pids = {"leader": server.pid, "outer": outer.pid, "inner": inner.pid}
    everyone = everyone_of(server)
    if when != "ready":
        engine = next(process for process in server.processes() if "Engine" in process.name)
        os.kill(engine.identity.pid, signal.SIGSTOP)
    for victim in victims:  # both at once: neither may see the other die
        os.kill(pids[victim], signal.SIGSTOP)
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    assert_gone(everyone, traces)
    deadline = time.monotonic() + LIMIT
    while not server.state.over:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert server.state == "failed"
    assert server.release.verified
    assert isinstance(server.error, VllmMagicError)


def test_what_carries_no_mark_goes_with_its_guards(manager, spec, traces):
    """Both guards die at once: the kernel ends the processes that the guards had adopted."""
    server = manager.start(spec(faults={"unmarked": True}), timeout=60).server
    everyone = everyone_of(server)
    strays = {one for one in everyone if "Stray" in processes.title(one.pid)}
    assert len(strays) == 2
    (entry,) = ledger.entries()
    until(
        lambda: strays <= {Identity(*one) for one in records.read_known_processes(str(entry.path))}, "unknown"
    )
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for guard in guards(server):
            pidfd.send(guard, number)
    assert_gone(everyone, traces)
    assert server._run.wait_over(LIMIT)
    assert server.release.verified
    assert {Identity(one.pid, one.start) for one in server.release.ended} >= strays


def test_guards_that_hang_are_replaced(server, traces, monkeypatch):
    """Both stopped, they answer nothing: they are killed, and the kernel releases in their place."""
    monkeypatch.setattr("vllm_magic.lifecycle.state.GUARD_LIMIT", 1.0)
    everyone = everyone_of(server)
    for guard in guards(server):
        os.kill(guard.pid, signal.SIGSTOP)
    assert server.stop(grace=0.5).verified
    assert_gone(everyone, traces)


@pytest.mark.parametrize("victim", ["outer", "inner"])
def test_a_guard_that_hangs_when_the_other_one_is_killed_is_replaced(server, traces, victim):
    """The kernel sees the death of the one, and hears nothing of the other."""
    outer, inner = guards(server)
    killed, stopped = (outer, inner) if victim == "outer" else (inner, outer)
    everyone = everyone_of(server)
    assert pidfd.send(stopped, signal.SIGSTOP)
    until(lambda: processes.read(stopped.pid).state == "T", "it is not stopped")
    assert pidfd.send(killed, signal.SIGKILL)
    assert_gone(everyone, traces)
    assert server._run.wait_over(LIMIT)
    assert (server.state, server.release.verified) == ("failed", True)


@pytest.mark.parametrize("victim", ["outer", "inner", "leader"])
def test_one_is_killed_in_the_middle_of_a_stop(server, traces, victim):
    """Without a leader, no process ends the engine, so the grace period ends too."""
    outer, inner = guards(server)
    leader = server.processes()[0].identity
    everyone = everyone_of(server)
    stopping = threading.Thread(target=server.stop, kwargs={"grace": 600})
    stopping.start()
    deadline = time.monotonic() + LIMIT
    while server.state != "stopping":
        assert time.monotonic() < deadline
    time.sleep(0.5)
    assert not server.state.over
    os.kill({"outer": outer, "inner": inner, "leader": leader}[victim].pid, signal.SIGKILL)
    stopping.join(LIMIT)
    assert server.state == "released"
    assert_gone(everyone, traces)


def test_start_again_after_each_death(manager, spec, traces):
    for victim in ("leader", "outer", "inner"):
        server = manager.start(spec(), timeout=60).server
        outer, inner = guards(server)
        os.kill({"leader": server.pid, "outer": outer.pid, "inner": inner.pid}[victim], signal.SIGKILL)
        while server.state == "ready":
            time.sleep(0.01)
        again = manager.start(spec(), timeout=60).server
        assert again is not server
        assert again.stop().verified
    traces.check()
